"""The Segment Anything network, under the published parameter names."""
