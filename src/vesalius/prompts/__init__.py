"""From a true mask to the prompts that a person might give."""
