"""A site's part in a federation: it joins a server, and does its tasks until the run is over."""

from __future__ import annotations

from fedlens.config.site import SiteConfig
from fedlens.errors import ConfigError
from fedlens.flower.addresses import LOOPBACK, as_target, joined, parted
from fedlens.flower.bundle import bundle
from fedlens.flower.certificates import ClientCredentials
from fedlens.flower.client import Place, ResidentClient, Terms
from fedlens.flower.site import site_maker, source_of
from fedlens.flower.site_state import exclusive_lock
from fedlens.flower.worker import Watcher
from fedlens.training.device import resolve_device


def join(site: SiteConfig, watcher: Watcher) -> None:
    """Join the server and do its tasks until the run is over.

    Raises:
        FedLensError: the server cannot be used, or the site cannot work.
    """
    place = where(site)
    source_of(site)  # a folder or a device that is missing is said at once, not when a server is there
    resolve_device(site.device, "device")
    terms = Terms(site.allow.max_message_mb * 1_000_000, bundle().hash_str, site.stay)
    with exclusive_lock(site):
        watcher.note(f"{site.client}: images in {site.data_dir}, state in {site.state}")
        ResidentClient(place, terms, site_maker(site), site.state, watcher).run()


def where(site: SiteConfig) -> Place:
    """The server's address and the credentials for it.

    Raises:
        ConfigError: another machine without certificates and without --insecure.
    """
    host, port = parted(site.server_address, "server_address")
    host = as_target(host)
    address = joined(host, port)
    if site.certs is not None:
        held = ClientCredentials.load(site.certs)
        return Place(address, held.root_certificates, held.keys)
    if host not in LOOPBACK and not site.insecure:
        raise ConfigError(
            f"server_address = {site.server_address!r}: another machine needs --certs FOLDER (the folder that its "
            "administrator made for this site with `fedlens certs create`), or say --insecure",
            code="insecure",
            key="server_address",
        )
    return Place(address)
