from stablerep.telemetry import MemorySink, Reporter
from stablerep.training.deepspeed_monitor import DeepspeedMonitor


class _Others:
    """As DeepSpeed's MonitorMaster."""

    def __init__(self, enabled: bool) -> None:
        self.enabled, self.events = enabled, list[tuple[str, float, int]]()

    def write_events(self, event_list: list[tuple[str, float, int]]) -> None:
        self.events += event_list


def test_phases_become_seconds_and_the_other_writers_go_on() -> None:
    memory, events = MemorySink(), [("Train/Samples/lr", 0.1, 64), ("Train/Samples/elapsed_time_ms_backward_allreduce", 250.0, 64)]
    for others in (_Others(enabled=False), _Others(enabled=True)):
        monitor = DeepspeedMonitor(Reporter("pretrain", (memory,)).report, others)
        assert monitor.enabled
        monitor.write_events(events)
        assert others.events == (events if others.enabled else [])
    assert memory.reports == [("stablerep_training_phase_seconds", 0.25, {"phase": "backward_allreduce"})] * 2
