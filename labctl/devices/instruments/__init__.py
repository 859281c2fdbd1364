"""Instruments: lasers, shutters, power meters, stages and sensors, over VISA, serial, or a pymeasure driver.

`table` is what a bench file says of an instrument's commands, `dialogue` holds the conversation, `guarded` keeps the
limits and the safe state, `opening` goes from a section of a bench file to an instrument.
"""
