"""One probe a file: each looks at one side of a deployment and judges nothing."""
