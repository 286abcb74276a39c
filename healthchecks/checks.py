"""The list of checks. A new one is a probe, a rule, and a line here."""

from __future__ import annotations

from typing import Any

from healthchecks import backup_rules, container_rules, provider_rules, registry_rules, rules
from healthchecks.model import Check, Need
from healthchecks.probes.api import ask_api
from healthchecks.probes.authentication import try_as_stranger
from healthchecks.probes.backups import look_into_store
from healthchecks.probes.certificate import read_certificate
from healthchecks.probes.database import (
    look_at_kept,
    look_at_slots,
    look_for_extension,
    reach,
    read_revision,
)
from healthchecks.probes.encryption import look_at_secrets
from healthchecks.probes.here import (
    ask_supervisor,
    find_listeners,
    inspect,
    inspect_memory,
    measure_disk,
)
from healthchecks.probes.identity import compare_server_and_database
from healthchecks.probes.model import ask_providers
from healthchecks.probes.registry import look_at_links
from healthchecks.probes.release import compare_client, look_for_weaknesses, read_release
from healthchecks.probes.streams import come_back

DATABASE = (Need.DATABASE,)
SERVICES = (Need.SERVICES,)
CONTAINERS = (Need.CONTAINERS,)
WITHIN_REACH = (Need.WITHIN_REACH,)
REGISTRY = (Need.REGISTRY,)
STORE = (Need.STORE,)

CHECKS: tuple[Check[Any], ...] = (
    Check("services", ask_supervisor, rules.services_run, SERVICES),
    Check("containers", inspect, container_rules.containers_run, CONTAINERS),
    Check("restarts", inspect_memory, container_rules.nothing_restarts, CONTAINERS),
    Check("memory", inspect_memory, container_rules.memory_suffices, CONTAINERS),
    Check("api", ask_api, rules.api_answers),
    Check("authentication", try_as_stranger, rules.authentication_on),
    Check("streams", come_back, rules.streams_offered),
    Check("database", reach, rules.database_reachable, DATABASE),
    Check("identity", compare_server_and_database, rules.database_is_the_servers, DATABASE),
    Check("extension", look_for_extension, rules.extension_installed, DATABASE),
    Check("revision", read_revision, rules.revision_is_head, DATABASE),
    Check("encryption", look_at_secrets, rules.secrets_encrypted, DATABASE),
    Check("replication", look_at_slots, rules.slots_hold_the_live_database, DATABASE),
    Check("kept", look_at_kept, rules.nothing_is_left_behind, DATABASE),
    Check("registry", look_at_links, registry_rules.links_lead_to_agents, REGISTRY),
    Check("listening", find_listeners, rules.listens_on_loopback_only, SERVICES),
    Check("published", inspect, container_rules.only_the_proxy_is_published, CONTAINERS),
    Check("hardening", inspect, container_rules.containers_are_confined, CONTAINERS),
    Check("images", inspect, container_rules.images_are_recent, CONTAINERS),
    Check("certificate", read_certificate, container_rules.certificate_lasts, (Need.TLS,)),
    Check("model", ask_providers, provider_rules.models_reachable, WITHIN_REACH),
    Check("disk", measure_disk, rules.disk_has_room, WITHIN_REACH),
    Check("store", look_into_store, backup_rules.store_answers, STORE),
    Check("store-space", look_into_store, backup_rules.store_has_room, STORE),
    Check("backup", look_into_store, backup_rules.backup_is_recent, STORE),
    Check("backup-encryption", look_into_store, backup_rules.backups_stay_encrypted, STORE),
    Check("backup-signature", look_into_store, backup_rules.backups_are_signed, STORE),
    Check("drill", look_into_store, backup_rules.drill_passed, STORE),
    Check("retention", look_into_store, backup_rules.retention_is_kept, STORE),
    Check("release", read_release, rules.release_is_maintained),
    Check("weaknesses", look_for_weaknesses, rules.weaknesses_are_mitigated),
    Check("client", compare_client, rules.client_fits_the_server),
)
