"""How a content caption becomes the prompt a model is trained on or draws from."""


def styled_prompt(caption: str, style: str) -> str:
    """``"<caption> in the style of <style>"``; ``style`` is a placeholder or a generic style."""
    return f"{caption} in the style of {style}"
