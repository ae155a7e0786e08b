"""Is a bank or a completer fit for use?"""
