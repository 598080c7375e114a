// SPDX-License-Identifier: Apache-2.0
//! Who this process is, and to whom files belong, in the words of messages.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::unistd::{Gid, Group, Uid, User, getegid, geteuid};

/// The name of the user that this process is, or the number if it has none.
pub(crate) fn user() -> String {
    user_name(geteuid())
}

/// User and group of this process, as chown takes them.
pub(crate) fn user_and_group() -> String {
    format!("{}:{}", user(), group())
}

/// The name of this process's group, or its number.
pub(crate) fn group() -> String {
    group_name(getegid())
}

/// Owner, group and mode of a file, if they can be seen.
pub(crate) fn describe(path: &Path) -> Option<String> {
    let found = std::fs::metadata(path).ok()?;
    let (owner, group) = (user_name(Uid::from_raw(found.uid())), group_name(Gid::from_raw(found.gid())));
    Some(format!("it belongs to {owner}:{group} and has mode {:04o}", found.mode() & 0o7777))
}

/// Whether somebody else than root and the user and group of this process can write to a file, or to the entries of a
/// folder.
pub(crate) fn is_open_to_others(found: &Metadata) -> bool {
    let is_ours = |id, own| id == 0 || id == own;
    let by_group = found.mode() & 0o020 != 0 && !is_ours(found.gid(), getegid().as_raw());
    found.mode() & 0o002 != 0 || by_group || !is_ours(found.uid(), geteuid().as_raw())
}

fn user_name(user: Uid) -> String {
    User::from_uid(user).ok().flatten().map_or_else(|| user.to_string(), |found| found.name)
}

fn group_name(group: Gid) -> String {
    Group::from_gid(group).ok().flatten().map_or_else(|| group.to_string(), |found| found.name)
}
