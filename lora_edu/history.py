"""What a training run hands back."""

from dataclasses import asdict, dataclass, field


@dataclass
class History:
    """What happened during a training run. Losses are in nats per token."""

    train_loss: list[float] = field(default_factory=list)  # one entry per step
    validation_loss: list[tuple[int, float]] = field(default_factory=list)  # (steps done, loss)
    tokens_per_second: float = 0.0
    seconds: float = 0.0  # spent in steps, validation aside; a run that was stopped goes on counting
    interrupted: bool = False
    gradient_bytes: int = 0  # what one process hands to the all-reduce of a step; 0 for a single process

    def as_dict(self) -> dict:
        """The same as plain lists and numbers, ready for JSON."""
        return asdict(self)

    def continue_from(self, stored: dict) -> None:
        """Take over what `as_dict` gave, of a run that goes on."""
        for name, value in stored.items():
            setattr(self, name, value)
        self.validation_loss = [tuple(pair) for pair in self.validation_loss]  # JSON has no tuples
        self.interrupted = False
