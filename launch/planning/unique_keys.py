"""Safe YAML in which no mapping gives a key twice: plain YAML would silently use the last."""

from typing import Any

import yaml


class UniqueKeys(yaml.SafeLoader):
    """A safe loader that refuses a key that is given twice, in the line of the second."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Check the keys as they are written, before merge keys (`<<`) bring in those of other mappings."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value!r} is given twice", problem_mark=key.start_mark)
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else key)
        return node


def load_unique(text: str) -> Any:
    """The content of a YAML text.

    Raises:
        YAMLError: the text is not valid, or a mapping gives a key twice; the message shows where, and not the text
            itself, which may be a secret.
    """
    try:
        return yaml.load(text, UniqueKeys)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise yaml.YAMLError(f"{error.problem}{place}") from None
