"""The process that the engine lives in: its CPUs, forks, and the end of the interpreter."""
