"""Plans at work: workers that run stages, a coordinator that asks them, a front door for clients."""
