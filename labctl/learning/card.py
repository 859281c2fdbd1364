"""placeholder"""


def write_card(recipe, metrics):
    return ""
