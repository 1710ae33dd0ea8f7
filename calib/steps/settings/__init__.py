"""How a setting is checked: its type and range, and the sentence that says what is wrong."""
