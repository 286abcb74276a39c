"""A stand-in for Pulumi's resource plugin `docker`: networks, volumes, containers and images."""
