"""How a content caption becomes the prompt a model is trained on or draws from."""


def styled_prompt(caption: str, style: str) -> str:
    """``"<caption> in the style of <style>"``; ``style`` is a placeholder or a generic style."""
    return f"{caption} {style_phrase(style)}"


def style_phrase(style: str) -> str:
    """What a styled prompt says besides its content."""
    return f"in the style of {style}"


def unstyled_prompt(caption: str, style: str) -> str:
    """``"<caption> not in the style of <style>"``: of a negative, where that is asked for."""
    return f"{caption} {unstyled_phrase(style)}"


def unstyled_phrase(style: str) -> str:
    """What an unstyled prompt says besides its content."""
    return f"not {style_phrase(style)}"
