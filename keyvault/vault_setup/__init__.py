"""Setting Vault up for a deployment, and checking that it still is: an administrator's work.

`set_up_vault` makes what is missing and mends what differs; `issue_credentials` gives a role its login; `check_vault` looks
without changing anything.
"""

from keyvault.vault_setup.checks import Check, check_vault
from keyvault.vault_setup.roles import ROLES, policy_text
from keyvault.vault_setup.setup import SetupStep, issue_credentials, set_up_vault

__all__ = ["ROLES", "Check", "SetupStep", "check_vault", "issue_credentials", "policy_text", "set_up_vault"]
