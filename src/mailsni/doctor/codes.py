"""Every code of a finding, and what it means. Programs compare codes: they are added to, and never renamed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mailsni.core.model import Reason

_LINEAGES = {
    f"lineage_{reason}": f"A certificate of a store is skipped: `{reason}`."
    for reason in Reason
    if reason is not Reason.KEPT_LAST_GOOD
}

CODES: Final[Mapping[str, str]] = {
    # The doctor itself
    "check_failed": "A check could not run; the message says why.",
    "no_server": "Neither server is installed, or both are disabled.",
    "postfix_unreadable": "Postfix's configuration cannot be read.",
    "dovecot_unreadable": "Dovecot's version cannot be found out.",
    "snapshot_failed": "The stores, or the deployed files, cannot be read.",
    "store_missing": "A store is missing or cannot be listed.",
    # TLS and the default certificate of Postfix
    "tls_off": "main.cf switches TLS off.",
    "service_without_tls": "A service of master.cf switches TLS off for itself.",
    "default_certificate_missing": "There is no default certificate, so Postfix switches TLS off.",
    "default_certificate_unreadable": "The default certificate is missing or cannot be used.",
    "default_key_not_first": "smtpd_tls_chain_files does not begin with the key.",
    "default_certificate_expired": "The default certificate has expired.",
    "default_certificate_self_signed": "The default certificate is self-signed.",
    "default_name_not_in_map": "A name of the default certificate is in no table for SNI.",
    "service_certificate": "A service has a default certificate of its own.",
    # The parameters of Postfix
    "parameter_misspelt": "A parameter that Postfix does not know resembles one that it knows.",
    "parameter_duplicated": "main.cf sets a parameter more than once.",
    "map_not_configured": "tls_server_sni_maps does not name mailsni's map.",
    "service_bypasses_map": "A service has a tls_server_sni_maps of its own without mailsni's map.",
    "name_in_earlier_map": "A table before mailsni's map answers for its names.",
    # The tables of Postfix
    "map_type_missing": "tls_server_sni_maps names a table without its type.",
    "map_type_unsupported": "This Postfix has no tables of the type.",
    "map_missing": "A table does not exist.",
    "map_proxied": "A table is opened through proxymap(8).",
    "map_unusable": "A table cannot be read.",
    "map_literal_wildcard": "A key begins with `*.`, which Postfix never looks up.",
    "map_duplicate_key": "A source has a key more than once.",
    "map_file_missing": "A source names a file that does not exist or cannot be read.",
    "map_certificate_first": "An entry names the certificate before its key.",
    "map_key_missing": "An entry has no key.",
    "map_without_keys": "The files of an entry hold neither key nor certificate.",
    "map_compiled_without_f": "A table holds names of files: it was compiled without `postmap -F`.",
    "map_empty_value": "An entry is empty.",
    "map_expired": "The certificate of an entry has expired.",
    "map_older_than_source": "A table is older than its source.",
    "map_older_than_certificates": "A table is older than the certificates that it copies.",
    "map_world_readable": "Every user of the host can read a table with private keys.",
    "map_source_world_readable": "A source can be read by others, and the next table gets its mode.",
    "map_writable": "Others can write a table or its directory.",
    "map_wrong_owner": "A source or table belongs to another user than root.",
    # The stores
    "key_world_readable": "Every user of the host can read a private key of a store.",
    "key_mode_too_open": "Only a directory protects a private key: its mode lets everybody read.",
    "pin_world_readable": "Every user of the host can read a pinned file.",
    "store_writable": "Others can write to a directory of keys.",
    "chain_incomplete": "A chain ends with the leaf, or with an intermediate missing.",
    "lineages_compete": "Two lineages have the same name.",
    "lineage_not_renewed": "certbot has no renewal configuration for a lineage that is served.",
    "lineage_expired_not_renewed": "certbot has no renewal configuration for a lineage, and it has expired.",
    **_LINEAGES,
    # Hooks, cron, leftovers
    "hook_dangling_link": "A hook is a link to nothing.",
    "hook_not_regular_file": "A hook is no regular file.",
    "hook_not_executable": "A hook is not executable, so certbot does not run it.",
    "hook_ignored": "The name of a hook ends in `~`, so certbot does not run it.",
    "hook_backup_executable": "A backup of a hook is executable, so certbot runs it.",
    "hook_writable": "Others than root can write a hook.",
    "hook_calls_certbot": "A hook calls certbot, which holds its lock meanwhile.",
    "hook_restarts_server": "A hook restarts a server instead of reloading it.",
    "hook_compiles_in_place": "A hook compiles a table in place.",
    "hook_compiles_without_f": "A hook compiles a table for SNI without `postmap -F`.",
    "cron_restarts_server": "A cron job restarts a server instead of reloading it.",
    "cron_compiles_in_place": "A cron job compiles a table in place.",
    "cron_compiles_without_f": "A cron job compiles a table for SNI without `postmap -F`.",
    "cron_panel_script": "cron starts a panel's script that interrupts the servers.",
    "mailsni_not_scheduled": "Nothing starts mailsni.",
    "first_issuance_missed": "certbot does not run mailsni's hook for a new certificate.",
    "leftover_map": "A table of a panel or tutorial is left, and nothing names it.",
    # Dovecot
    "dovecot_include_unreadable": "A part of Dovecot's configuration cannot be read.",
    "dovecot_tls_off": "`ssl = no` switches TLS off.",
    "dovecot_default_certificate_missing": "There is no default certificate.",
    "dovecot_wrong_release_syntax": "Settings are of the other release of Dovecot.",
    "dovecot_several_names": "A local_name block of 2.4 has several names.",
    "dovecot_file_mark_missing": "A setting of 2.3 lacks the `<` before a path.",
    "dovecot_file_mark_unexpected": "A setting of 2.4 has a `<` before a path.",
    "dovecot_local_name_in_protocol": "A local_name block stands in a protocol block.",
    "dovecot_name_never_matches": "The name of a local_name block matches no host name.",
    "dovecot_name_case_sensitive": "Dovecot 2.4.0 compares names as they are written.",
    "dovecot_file_missing": "Dovecot's configuration names a file that it cannot read.",
    "dovecot_certificate_unusable": "Dovecot cannot serve a certificate and its key.",
    "dovecot_certificate_expired": "A certificate that a block names has expired.",
    "dovecot_certificate_not_yet_valid": "A certificate that a block names is not valid yet.",
    "dovecot_certificate_name_mismatch": "A certificate is not for the name of its block.",
    "dovecot_chain_incomplete": "A file that Dovecot serves has the leaf without its intermediates.",
    "dovecot_certificates_not_checked": "This user may not read the certificates that blocks name.",
    "dovecot_key_exposed": "Every user of the host can read or replace a private key.",
    "dovecot_archive_path": "A setting names a file of certbot's archive.",
    "dovecot_include_not_configured": "dovecot.conf does not include mailsni's file.",
    "dovecot_foreign_block": "Another block has a name that mailsni's include has too.",
    "dovecot_duplicate_block": "Two blocks have the same name.",
    "dovecot_global_setting_after_blocks": "A TLS setting outside of blocks comes after a block that sets it.",
    "dovecot_leftover_blocks": "A file has blocks that a panel or tutorial wrote.",
    "dovecot_too_many_blocks": "Dovecot 2.3's config process has too little memory for the blocks.",
    "dovecot_configuration_rejected": "Dovecot would not start with its configuration.",
}
