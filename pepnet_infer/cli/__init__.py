"""The `pepnet-infer` command: one file per subcommand, results on stdout, progress on stderr."""
