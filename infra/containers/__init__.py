"""The docker target: images, containers and what is inside them, through the Docker Engine's API."""
