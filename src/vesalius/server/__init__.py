"""The annotation server: images and volumes in a browser, and in viewers that speak MONAI Label's protocol."""
