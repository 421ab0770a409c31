"""All that knows ComfyUI's contracts: weights, patches, wrappers, sampling."""
