"""Configuration: one frozen dataclass per component, from which the command line is generated. No torch here."""
