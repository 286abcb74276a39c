"""The target local: processes of this machine, kept by supervisord."""
