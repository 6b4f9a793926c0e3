"""Functions that chats offer as tools; the tests describe the same ones."""

from typing import Any, Literal, Optional, Union


def weather(city: str, unit: str = "celsius", days: Optional[int] = None) -> str:  # noqa: UP045
    """
    Look up the weather
    in a city.

    It may be <wrong>.

    Args:
        city: The city, such as "Genève"
        unit: The unit of
            temperatures (choices: ["celsius", "fahrenheit"])

        days: How many days: at most 10

    Returns:
        A sentence
        or two.

    Raises:
        ValueError: for an unknown city.
    """
    return f"{city} {unit} {days}"


def now() -> float:
    """Seconds since 1970."""
    return 0.0


def shapes(
    numbers: list[int],
    table: dict[str, float],
    pair: tuple[int, str],
    either: Union[str, int],  # noqa: UP007
    several: int | list[str] | None,
    level: Literal["low", "high"],
    mixed: Literal[1, "one", None],
    plain: list,
    anything: Any,
    flag: bool = False,
):
    """Take every kind of argument.

    Args:
        numbers: Numbers.
        table: A table.
        pair: A pair.
        either: One or the other.
        several: One, several or none.
        level: How much.
        mixed: Any one.
        plain: A list.
        anything: Anything.
        flag: Whether (Choices: ["yes", "no"])
    """


TOOLS = {function.__name__: function for function in (weather, now, shapes)}
