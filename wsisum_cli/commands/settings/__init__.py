"""Where options come from: their definitions for commands that share them, `wsisum.toml`, the environment."""
