"""Sound, which the server imports to transcribe; the tests send none."""
