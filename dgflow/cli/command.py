"""The command class of recipes' command lines, and the format of its help."""

from pathlib import Path

from typer import Context
from typer.core import TyperCommand
from typer.exceptions import TyperException


class RecipeCommand(TyperCommand):
    """A command whose error states the right order if the command's name follows the options."""

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except TyperException as error:
            commands = getattr(ctx.parent and ctx.parent.command, "commands", {})
            extra = error.message.rpartition("(")[2].rstrip(")").split()
            if "unexpected extra argument" in error.message and (late := set(extra) & set(commands)):
                name = next(word for word in given if word in late)
                options = " ".join(word for word in given if word != name)
                recipe = Path(ctx.parent.info_name or "RECIPE.py").name if ctx.parent else "RECIPE.py"
                error.message = (
                    f"expected the command before its options, found '{name}' after them; write "
                    f"`{recipe} {name} {options}`"
                )
            raise


def as_written(text: str) -> str:
    """Format a docstring for help. Paragraphs with indented lines, such as lists of commands, keep their line
    breaks.
    """
    paragraphs = text.split("\n\n")
    return "\n\n".join(
        f"\b\n{each}" if any(line.startswith(" ") for line in each.splitlines()) else each
        for each in paragraphs
    )
