"""The methods: from a source, a target and two prompts to a gradient, each over the prior's interface alone."""
