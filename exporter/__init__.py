"""An agent that publishes size, age and changes of log files as Prometheus metrics."""

__version__ = "0.1.0"
