"""Checking a home without changing it: what is not as it should be, and how to mend it."""

from keyvault.doctor.check import Check
from keyvault.doctor.home import check_home

__all__ = ["Check", "check_home"]
