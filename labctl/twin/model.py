"""The digital model of the delivered bench: from gray patterns to camera counts, differentiably.

Get one from a calibrated bench, and predict a camera window, or the tiles of a deployment::

    twin = Twin.from_facts(facts)                        # whatever records there are; nominal values for the rest
    counts = twin.window(gray, inputs, window, exposure_s=1e-3)
    tiles = twin.tiles(gray, images, deployment.layout, deployment.corner)

`gray` is an integer array: what the SLM is sent. A *float* tensor in its place is a phase pattern (rad), taken as
continuous gray with its wraps, through which gradients flow: so a pattern is optimised for the bench as it is::

    phase = torch.tensor(deployment.phase, requires_grad=True)
    spectra = twin.spectra(twin.shown(images, layout, corner))       # once: images share them over all steps
    adam = torch.optim.Adam([phase], lr=0.02)
    for _ in range(steps):
        adam.zero_grad()
        read = twin.tiles_of(twin.slm_field(phase), spectra, layout, corner)    # counts/s [batch, tiles, y, x]
        loss(read.sqrt()).backward()
        adam.step()
    pattern = gray_from_phase(phase.detach(), facts.slm_levels)

Gradients of a twin's parameters are off, which is faster, until ``twin.requires_grad_(True)`` switches them on.

Parametrisation
---------------
With panel pixels p and camera pixels u counted from the panel's middle and from where it is seen, and SLM pixels j
from the SLM's middle, coherent light of a 4f bench is

    E(u) = sum_j m_j sum_p a_p exp(2 pi i (j - j0) . (-B p)) exp(2 pi i j . G u),

and nothing that a bench can measure tells more about its geometry than B, G, j0 and where the panel's middle is seen.
They are written as the calibrations measure them: carrier to camera ``K = -G^-1``, input to camera ``M = K (-B)``, its
offset, and the Fourier centre ``j0``. Scale and rotation of the spectrum on the SLM are ``B``; a tilt of the wavefront
would be an offset of the camera, so Zernikes 1 to 3 stay 0. Phase counts from the top gray level, stroke has mean 1,
white has amplitude 1, and the constant of every map is in the gain.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Complex, Float
from numpy.typing import NDArray
from torch import Tensor, nn

from labctl.optics.geometry import Geometry
from labctl.optics.sampling import REACH
from labctl.optics.tiles import Layout
from labctl.twin import basis
from labctl.twin.fixed import Fixed
from labctl.twin.gridding import WIDTH, read, spread
from labctl.twin.panel import look_between, look_up, spread_phase, wrapped_gray
from labctl.twin.parts import Fineness, low_degrees
from labctl.twin.plane import Window, between, convolved, filled, filtered, lit_box, periodic, places, wide

if TYPE_CHECKING:
    from labctl.bench.facts import BenchFacts

Pattern = Tensor | NDArray[Any]
HALF_TAPS = 4  # reach of the averages over camera pixels, in samples of the camera plane


class Twin(nn.Module):
    """The delivered bench. Parameters are those of `labctl.twin.parts.UNITS`; a new twin is nominal and ideal.

    Parameters
    ----------
    geometry : Geometry
        Commanded geometry.
    slm_levels, input_levels : int
    fineness : Fineness
    """

    def __init__(
        self, geometry: Geometry, *, slm_levels: int = 256, input_levels: int = 256, fineness: Fineness | None = None
    ) -> None:
        super().__init__()
        self.geometry, self.slm_levels, self.input_levels = geometry, slm_levels, input_levels
        self.fineness = fine = fineness or Fineness()
        self._fixed = Fixed(geometry, slm_levels, input_levels, fine)
        nominal, middle = geometry.nominal_input_to_camera(), np.asarray(geometry.input.centre)

        def parameter(value: Any, dtype: torch.dtype = torch.float32) -> nn.Parameter:
            return nn.Parameter(torch.as_tensor(np.asarray(value), dtype=dtype), requires_grad=False)

        self.input_place = parameter(nominal[:, :2] @ middle + nominal[:, 2], torch.float64)
        self.input_linear = parameter(nominal[:, :2], torch.float64)
        self.carrier_to_camera = parameter(geometry.nominal_carrier_to_camera(), torch.float64)
        self.centre = parameter(geometry.slm.centre, torch.float64)
        self.input_curvature = parameter(0.0, torch.float64)
        self.input_response = parameter(np.zeros(fine.response_knots - 1))
        self.uniformity = parameter(np.zeros(int(low_degrees(fine.uniformity).sum())))
        self.lut = parameter(np.zeros(fine.lut_knots - 1))
        self.stroke = parameter(np.zeros(int(low_degrees(fine.stroke).sum())))
        self.crosstalk = parameter(0.0)
        self.zero_order = parameter(np.zeros(2))
        self.pupil = parameter(np.ones((fine.pupil, fine.pupil)))
        self.zernikes = parameter(np.zeros(36))
        self.rough = parameter(np.zeros((2, fine.rough, fine.rough)))
        self.ghosts = parameter(np.zeros((fine.ghosts, 2)))
        self.ghost_paths = parameter(np.zeros((fine.ghosts, 3)))
        self.pixel = parameter(1.0)
        self.fill = parameter(1.0)
        self.camera = parameter(np.zeros(int(low_degrees(fine.camera).sum())))
        self.log_gain = parameter(0.0)
        self.lit: Tensor
        self.flat: Tensor
        self.rough_gain: Tensor
        self.register_buffer("lit", torch.ones(geometry.input.shape))
        self.register_buffer("flat", torch.ones(geometry.camera.shape))
        self.register_buffer("rough_gain", torch.ones(()))
        self._kept: dict[str, tuple[Any, Any]] = {}

    @staticmethod
    def from_facts(facts: BenchFacts, *, fineness: Fineness | None = None) -> Twin:
        """The twin of a bench as far as it is calibrated.

        A `twin` record is loaded exactly. Otherwise every record sets its part; what none has measured is ideal.
        """
        from labctl.twin.start import from_facts

        return from_facts(facts, fineness=fineness)

    # input panel

    def shown(
        self, images: Float[Tensor, "batch y x"], layout: Layout, corner: tuple[int, int]
    ) -> Float[Tensor, "batch row column"]:
        """Continuous gray of the input panel for images of amplitudes from 0 to 1, as a deployment shows them."""
        blocks = images.repeat_interleave(layout.block[0], -2).repeat_interleave(layout.block[1], -1)
        rows, columns = self.geometry.input.shape
        ends = rows - corner[0] - blocks.shape[-2], columns - corner[1] - blocks.shape[-1]
        padded = torch.nn.functional.pad(blocks, (corner[1], ends[1], corner[0], ends[0]))
        return padded * (self.input_levels - 1)

    def input_table(self) -> Float[Tensor, " levels"]:
        """Amplitude of each gray level of the input panel; white is 1."""
        zero = self.input_response.new_zeros(1)
        return self._fixed.input_linear + self._fixed.input_spline @ torch.cat([self.input_response, zero])

    def uniformity_map(self) -> Float[Tensor, "row column"]:
        """Amplitude of the input panel's pixels when all are white."""
        coefficients = filled(self.uniformity, self.fineness.uniformity)
        return self.lit * torch.exp(self._fixed.input_legendre[0] @ coefficients @ self._fixed.input_legendre[1].T)

    def spectra(self, inputs: Pattern) -> Complex[Tensor, "batch row column"]:
        """Field that falls on the SLM's pixels, of unit amplitude on the camera where the panel is white.

        Parameters
        ----------
        inputs : array or tensor [batch, row, column] or [row, column]
            Gray of the input panel: integers, or floats between 0 and the top level.
        """
        gray = torch.as_tensor(inputs if isinstance(inputs, Tensor) else np.asarray(inputs).astype(np.float32)).float()
        gray = gray[None] if gray.ndim == 2 else gray
        table, uniform = self.input_table(), self.uniformity_map()
        r0, r1, c0, c1 = lit_box(uniform if float(table.detach()[0]) > 0 else (gray.amax(0) > 0) * uniform)
        amplitude = look_between(table, gray[:, r0:r1, c0:c1].contiguous()) * uniform[r0:r1, c0:c1]
        y, x = (
            torch.arange(a, b, dtype=torch.float64) - middle
            for a, b, middle in zip((r0, c0), (r1, c1), self.geometry.input.centre, strict=True)
        )
        pixels = places(y, x)
        turns = pixels @ self._panel_to_turns().T
        tilt = 2 * torch.pi * (turns @ (self.centre - self._fixed.middle))
        bend = self.input_curvature * pixels.square().sum(1) / (min(self.geometry.input.shape) / 2) ** 2
        values = amplitude.reshape(len(gray), -1) * torch.polar(torch.ones_like(tilt), tilt + bend).to(torch.complex64)
        cells = turns * self._fixed.lengths
        low = torch.floor(cells.detach().min(0).values) - WIDTH // 2 - 1
        size = (torch.ceil(cells.detach().max(0).values) - low).long() + WIDTH // 2 + 2
        grid = spread(cells - low, values, (int(size[0]), int(size[1])))
        to_rows, to_columns = (self._fixed.transform(i, int(low[i]), int(size[i])) for i in (0, 1))
        envelope = self._envelope()
        found: Tensor = (to_rows * envelope[0][:, None]) @ grid @ (to_columns * envelope[1][:, None]).T
        return found

    def _panel_to_turns(self) -> Tensor:
        """B [2, 2]: turns per SLM pixel of a panel pixel."""
        return -torch.linalg.solve(self.carrier_to_camera, self.input_linear)

    def _envelope(self) -> list[Tensor]:
        """Spectrum of one square panel pixel over the rows and columns of the SLM, and the weight of the transform."""
        turns = self._panel_to_turns()
        weight = torch.linalg.det(turns).abs().sqrt()
        return [
            (weight * torch.sinc((self._fixed.index[i] - self.centre[i] + self._fixed.middle[i]) * turns[i].norm())).to(
                torch.complex64
            )
            for i in (0, 1)
        ]

    # SLM

    def phase_table(self) -> Float[Tensor, " levels"]:
        """Phase (rad) of each gray level of the SLM, relative to the top level's; falls with gray."""
        return self._fixed.slm_linear + self._fixed.slm_spline @ torch.cat([self.lut, self.lut.new_zeros(1)])

    def delivered_phase(self, pattern: Pattern) -> Float[Tensor, "row column"]:
        """Phase (rad) that the panel gives: response curve, its variation over the panel, spread between pixels.

        Parameters
        ----------
        pattern : integer [row, column]: gray levels; float [row, column]: phase commands, rad
        """
        shown = pattern if isinstance(pattern, Tensor) else torch.from_numpy(np.asarray(pattern).astype(wide(pattern)))
        table = self.phase_table()
        if shown.is_floating_point():
            phase = look_between(table, wrapped_gray(shown.float(), self.slm_levels))
        else:
            phase = look_up(table, shown)
        return spread_phase(phase * self.stroke_map(), self.crosstalk)

    def stroke_map(self) -> Float[Tensor, "row column"]:
        """Phase stroke of the SLM's pixels, of mean 1."""
        stroke = filled(self.stroke, self.fineness.stroke)
        return 1 + self._fixed.slm_legendre[0] @ stroke @ self._fixed.slm_legendre[1].T

    def wavefront(self) -> Float[Tensor, "row column"]:
        """Phase (rad) of everything but the pattern, over the SLM: Zernikes and the free-form part."""
        keep = torch.ones(36)
        keep[:3] = 0
        powers = torch.einsum("j,jab->ab", self.zernikes * keep, basis.zernike_powers())
        smooth = 2 * torch.pi * (self._fixed.powers[0] @ powers @ self._fixed.powers[1].T)
        return smooth + self.rough_gain * between(self.rough[0], self._fixed.rough_spline)

    def pupil_field(self) -> Complex[Tensor, "row column"]:
        """Complex transmission of the optics at the SLM's pixels."""
        return self._keep("pupil", self._pupil_field)

    def _pupil_field(self) -> Tensor:
        amplitude = between(self.pupil, self._fixed.pupil_spline)
        amplitude = amplitude * torch.exp(self.rough_gain * between(self.rough[1], self._fixed.rough_spline))
        field = torch.polar(torch.ones_like(amplitude), self.wavefront()) * amplitude
        seen = bool((self.ghosts.detach() != 0).any()) or self.ghosts.requires_grad
        for ghost, bends in zip(self.ghosts, self.ghost_paths, strict=True) if seen else ():
            axes = []
            for i in (0, 1):
                place = self._fixed.index[i].float() / self._fixed.radius
                path = bends[i] * place + bends[2] * place.square()
                axes.append(torch.polar(torch.ones_like(path), path))
            field = field * (1 + (torch.complex(ghost[0], ghost[1]) * axes[0])[:, None] * axes[1][None])
        return field

    def slm_field(self, pattern: Pattern) -> Complex[Tensor, "row column"]:
        """Complex field that pattern and optics impose on the spectrum, zero order included."""
        phase = self.delivered_phase(pattern)
        zero = torch.complex(self.zero_order[0], self.zero_order[1])
        return (torch.polar(torch.ones_like(phase), phase) + zero) * self.pupil_field()

    # camera

    def window(
        self, pattern: Pattern, inputs: Pattern, window: Window | None = None, *, exposure_s: float = 1.0
    ) -> Float[Tensor, "batch row column"]:
        """Counts above the dark level at the pixels of a camera window.

        Parameters
        ----------
        pattern : integer [row, column]: gray levels of the SLM; float [row, column]: phase commands, rad
        inputs : [batch, row, column] or [row, column], gray of the input panel
        window : (first row, end row, first column, end column), camera pixels
            Default the whole sensor.
        exposure_s : float, s
        """
        return self.window_of(self.slm_field(pattern), self.spectra(inputs), window) * exposure_s

    def window_of(
        self, field: Complex[Tensor, "row column"], spectra: Complex[Tensor, "batch row column"],
        window: Window | None = None,
    ) -> Float[Tensor, "batch row column"]:  # fmt: skip
        """Counts per second of a camera window, from what `slm_field` and `spectra` gave."""
        shape = self.geometry.camera.shape
        r0, r1, c0, c1 = window or (0, shape[0], 0, shape[1])
        found = self.pixels_of(field, spectra, places(torch.arange(r0, r1), torch.arange(c0, c1)))
        return found.reshape(len(spectra), r1 - r0, c1 - c0)

    def pixels_of(
        self, field: Complex[Tensor, "row column"], spectra: Complex[Tensor, "batch row column"],
        pixels: Float[Tensor, "n 2"],
    ) -> Float[Tensor, "batch n"]:  # fmt: skip
        """Counts per second at single camera pixels (row, column), from what `slm_field` and `spectra` gave."""
        found = self._read(field, spectra, pixels, [self._pixel_taps(i) for i in (0, 1)])
        return found * self.flat[pixels[:, 0].long(), pixels[:, 1].long()]

    def tiles(
        self, pattern: Pattern, images: Float[Tensor, "batch y x"], layout: Layout, corner: tuple[int, int]
    ) -> Float[Tensor, "batch tiles y x"]:
        """Counts per second at the image pixels of every tile, as a deployment's reader reads them.

        Parameters
        ----------
        pattern : integer [row, column]: gray levels of the SLM; float [row, column]: phase commands, rad
        images : float tensor [batch, y, x]
            Amplitudes from 0 to 1; differentiable.
        layout, corner
            Of the deployment.
        """
        spectra = self.spectra(self.shown(images, layout, corner))
        return self.tiles_of(self.slm_field(pattern), spectra, layout, corner)

    forward = tiles

    def tiles_of(
        self,
        field: Complex[Tensor, "row column"],
        spectra: Complex[Tensor, "batch row column"],
        layout: Layout,
        corner: tuple[int, int],
    ) -> Float[Tensor, "batch tiles y x"]:
        """As `tiles`, from what `slm_field` and `spectra` gave."""
        points = self.places(layout, corner).reshape(-1, 2)
        taps = []
        for i in (0, 1):
            width = self._fine_per_pixel(i)
            # a reader interpolates between pixels (on average a triangle) and averages over part of an image pixel
            block = REACH * layout.block[i] * self._panel_to_turns()[i].norm() * 2 * self.geometry.slm.shape[i]
            shape = self._pixel_taps(i)
            for box in (width, width, block):
                shape = convolved(shape, basis.box_taps(box.float(), HALF_TAPS))
            taps.append(shape)
        found = self._read(field, spectra, points, taps)
        return found.reshape(len(spectra), len(layout.carriers), *layout.image)

    def _read(self, field: Tensor, spectra: Tensor, pixels: Tensor, taps: list[Tensor]) -> Tensor:
        """Counts per second at camera places [n, 2] -> [batch, n], averaged by `taps` along the SLM's axes."""
        slm = self.geometry.slm.shape
        turns = -torch.linalg.solve(self.carrier_to_camera, (pixels - self.input_place).T).T
        fine = turns * torch.tensor([2.0 * n for n in slm], dtype=torch.float64)
        margin = torch.tensor([len(t) // 2 + 3 for t in taps], dtype=torch.float64)
        low = torch.floor(fine.detach().min(0).values) - margin
        size = (torch.ceil(fine.detach().max(0).values) + margin - low).long() + 1
        rows, columns = (torch.arange(int(size[i])) + int(low[i]) for i in (0, 1))
        found = []
        for spectrum in spectra:
            lines = torch.fft.ifft(spectrum * field, n=2 * slm[1], dim=1, norm="forward")
            lines = periodic(lines, columns).T.contiguous()
            plane = periodic(torch.fft.ifft(lines, n=2 * slm[0], dim=1, norm="forward"), rows)
            power = plane.real.square() + plane.imag.square()
            smooth = filtered(filtered(power, taps[0], 1), taps[1], 0)
            found.append(read((fine - low).flip(1), smooth[None])[0])
        return torch.stack(found) * self.response(pixels)

    def places(self, layout: Layout, corner: tuple[int, int]) -> Float[Tensor, "tiles pixels 2"]:
        """Camera pixels (row, column) where the centres of the image's pixels fall, in each tile."""
        y, x = (
            corner[i] + torch.arange(layout.image[i], dtype=torch.float64) * layout.block[i] + (layout.block[i] - 1) / 2
            for i in (0, 1)
        )
        panel = places(y, x) - torch.tensor(self.geometry.input.centre, dtype=torch.float64)
        here = panel @ self.input_linear.T + self.input_place
        moved = torch.tensor(layout.carriers, dtype=torch.float64) @ self.carrier_to_camera.T
        return here[None] + moved[:, None]

    def response(self, pixels: Float[Tensor, "n 2"]) -> Float[Tensor, " n"]:
        """Counts per second at unit intensity, at camera places (row, column): fill factor, camera and gain."""
        turns = -torch.linalg.solve(self.carrier_to_camera, (pixels - self.input_place).T).T
        envelope = torch.sinc(self.fill * turns).prod(1).square().float()
        bend = filled(self.camera, self.fineness.camera)
        scaled = 2 * (pixels + 0.5) / torch.tensor(self.geometry.camera.shape) - 1
        y, x = (basis.legendre_matrix(scaled[:, i].detach().numpy(), self.fineness.camera) for i in (0, 1))
        return envelope * torch.exp(((y @ bend) * x).sum(1) + self.log_gain)

    def _fine_per_pixel(self, axis: int) -> Tensor:
        """Side of a camera pixel in samples of the camera plane, along an axis of the SLM."""
        turns = torch.linalg.inv(self.carrier_to_camera)[axis].norm()
        return turns * (2 * self.geometry.slm.shape[axis])

    def _pixel_taps(self, axis: int) -> Tensor:
        return basis.box_taps((self.pixel * self._fine_per_pixel(axis)).float(), HALF_TAPS)

    def _keep(self, name: str, make: Any) -> Tensor:
        """What `make` gives, kept until a parameter changes; made anew where parameters want gradients."""
        state = [*self.parameters(), self.rough_gain]
        if torch.is_grad_enabled() and any(p.requires_grad for p in state):
            return torch.as_tensor(make())
        key = tuple((id(p), p._version) for p in state)
        if name not in self._kept or self._kept[name][0] != key:
            self._kept[name] = key, make()
        return torch.as_tensor(self._kept[name][1])

    @contextmanager
    def without_rough(self) -> Iterator[None]:
        """The free-form part switched off, for as long as the block lasts."""
        before = float(self.rough_gain)
        self.rough_gain.zero_()
        try:
            yield
        finally:
            self.rough_gain.fill_(before)

    def load_values(self, values: Mapping[str, Any]) -> None:
        """Set parameters and maps by name, with their shapes; others stay as they are."""
        known = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        with torch.no_grad():
            for name, value in values.items():
                known[name].copy_(torch.as_tensor(np.asarray(value)).to(known[name].dtype))
