"""Is the deployment well? Probes measure, rules judge, the command line speaks."""
