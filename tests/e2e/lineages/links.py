"""Bad: links and other things that are no files of the store, in the place of the key and of the chain."""

from __future__ import annotations

import os
import socket
import stat

from tests.e2e.lineages.kinds import LineageBuilder, as_key_and_as_chain, bad


@as_key_and_as_chain("not_a_regular_file")
def is_a_fifo(builder: LineageBuilder, kind: str) -> None:
    builder.unlink(kind)
    os.mkfifo(builder.store.path(builder.lineage, kind))


@as_key_and_as_chain("not_a_regular_file")
def leads_to_a_fifo(builder: LineageBuilder, kind: str) -> None:
    path = builder.store.archive / builder.lineage / f"{kind}1.pem"
    path.unlink()
    os.mkfifo(path)


@as_key_and_as_chain("not_a_regular_file")
def is_a_socket(builder: LineageBuilder, kind: str) -> None:
    builder.unlink(kind)
    directory = os.open(builder.directory, os.O_RDONLY)  # the path of a socket may not be as long as a test's
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(f"/proc/self/fd/{directory}/{kind}.pem")
    os.close(directory)


@as_key_and_as_chain("not_a_regular_file")
def is_a_directory(builder: LineageBuilder, kind: str) -> None:
    builder.unlink(kind)
    builder.store.path(builder.lineage, kind).mkdir()


@as_key_and_as_chain("not_a_regular_file")
def is_a_device(builder: LineageBuilder, kind: str) -> None:
    builder.unlink(kind)
    os.mknod(builder.store.path(builder.lineage, kind), stat.S_IFCHR | 0o600, os.makedev(1, 5))


@as_key_and_as_chain("not_a_regular_file")
def leads_to_a_device(builder: LineageBuilder, kind: str) -> None:
    builder.link(kind, "/dev/zero")


@as_key_and_as_chain("too_large")
def is_a_sparse_file_of_1_gib(builder: LineageBuilder, kind: str) -> None:
    os.truncate(builder.store.archive / builder.lineage / f"{kind}1.pem", 1 << 30)


@as_key_and_as_chain("too_large")
def is_a_file_of_2_mib(builder: LineageBuilder, kind: str) -> None:
    path = builder.store.archive / builder.lineage / f"{kind}1.pem"
    path.write_bytes(path.read_bytes() + b"\n" * (2 << 20))


@as_key_and_as_chain("symlink_outside_store")
def leads_to_a_secret(builder: LineageBuilder, kind: str) -> None:
    builder.link(kind, builder.outside / "secret")


@as_key_and_as_chain("symlink_outside_store")
def leads_to_the_shadow_file(builder: LineageBuilder, kind: str) -> None:
    builder.link(kind, "/etc/shadow")


@as_key_and_as_chain("symlink_outside_store")
def leads_to_a_matching_file_elsewhere(builder: LineageBuilder, kind: str) -> None:
    inside = builder.store.archive / builder.lineage / f"{kind}1.pem"
    elsewhere = builder.outside / f"{builder.lineage}-{kind}.pem"
    elsewhere.write_bytes(inside.read_bytes())
    builder.link(kind, elsewhere)


@as_key_and_as_chain("unreadable")
def leads_to_itself(builder: LineageBuilder, kind: str) -> None:
    builder.link(kind, f"{kind}.pem")


@as_key_and_as_chain("unreadable")
def leads_through_a_file(builder: LineageBuilder, kind: str) -> None:
    builder.link(kind, f"../../archive/{builder.lineage}/cert1.pem/{kind}.pem")


@bad("symlink_outside_store")
def lineage_is_a_link_out_of_the_store(builder: LineageBuilder) -> None:
    builder.add()
    elsewhere = builder.outside / builder.lineage
    elsewhere.mkdir()
    for path in builder.directory.iterdir():
        (elsewhere / path.name).write_bytes(path.read_bytes())
        path.unlink()
    builder.directory.rmdir()
    builder.directory.symlink_to(elsewhere)


@bad("unreadable")
def lineage_is_a_link_to_itself(builder: LineageBuilder) -> None:
    builder.directory.symlink_to(builder.lineage)
