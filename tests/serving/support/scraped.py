"""Reads /metrics as Prometheus does."""

from prometheus_client.parser import text_string_to_metric_families


class Scraped:
    """The numbers of one answer of /metrics."""

    def __init__(self, text: str) -> None:
        families = list(text_string_to_metric_families(text))
        self.types = {family.name: family.type for family in families}
        self._samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }

    def __len__(self) -> int:
        return len(self._samples)

    def get(self, name: str, **labels: str) -> float:
        """The value of one series, 0 if it has none yet."""
        return self._samples.get((name, frozenset(labels.items())), 0.0)

    def having(self, name: str, **labels: str) -> dict[frozenset[tuple[str, str]], float]:
        """Every series of a name that has these labels among others."""
        wanted = labels.items()
        return {k[1]: v for k, v in self._samples.items() if k[0] == name and k[1] >= frozenset(wanted)}
