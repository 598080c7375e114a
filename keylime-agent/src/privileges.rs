// SPDX-License-Identifier: Apache-2.0
//! Giving up root (`run_as`).

use std::ffi::CString;

use nix::sys::stat::{Mode, umask};
use nix::unistd::{
    Gid, Group, Uid, User, getegid, geteuid, getgrouplist, getgroups, setfsgid, setfsuid, setgid, setgroups, setuid,
};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_thread_groups};

use crate::config::RunAs;

/// Why privileges could not be dropped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrivilegeError {
    #[error("there is no user '{0}'")]
    NoUser(String),
    #[error("there is no group '{0}'")]
    NoGroup(String),
    #[error("the user {0} has no entry in the user database, so its group must be given, too: write '{0}:group'")]
    GroupUnknown(Uid),
    #[error("cannot look up '{name}': {source}")]
    Lookup { name: String, source: nix::Error },
    #[error("cannot change to user and group {run_as}: {source}")]
    Change { run_as: String, source: nix::Error },
    #[error("cannot give up the capabilities of root: {0}")]
    Capabilities(#[source] rustix::io::Errno),
    #[error("after the change to user and group {run_as} this process can still become root")]
    StillRoot { run_as: String },
}

/// The user and group to change to.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    user: Uid,
    group: Gid,
    /// The group, and those that the user is a member of.
    groups: Vec<Gid>,
}

impl Account {
    /// Looks up user and group, which may be given by name or by number. Numbers need no entries in the databases; a user
    /// without one is a member of no further groups.
    pub(crate) fn find(run_as: &RunAs) -> Result<Self, PrivilegeError> {
        let found = find_user(&run_as.user)?;
        let user = match (&found, run_as.user.parse()) {
            (Some(user), _) => user.uid,
            (None, Ok(number)) => Uid::from_raw(number),
            (None, Err(_)) => return Err(PrivilegeError::NoUser(run_as.user.clone())),
        };
        let group = match (&run_as.group, &found) {
            (None, Some(user)) => user.gid,
            (None, None) => return Err(PrivilegeError::GroupUnknown(user)),
            (Some(name), _) => match name.parse() {
                Ok(number) => Gid::from_raw(number),
                Err(_) => {
                    Group::from_name(name)
                        .map_err(|source| lookup(name, source))?
                        .ok_or_else(|| PrivilegeError::NoGroup(name.clone()))?
                        .gid
                }
            },
        };
        let groups = match found {
            None => vec![group],
            Some(user) => CString::new(user.name.as_str())
                .map_err(|_| nix::Error::EINVAL)
                .and_then(|name| getgrouplist(&name, group))
                .map_err(|source| lookup(&user.name, source))?,
        };
        Ok(Self { user, group, groups })
    }

    /// The user's number.
    pub(crate) fn user_id(&self) -> u32 {
        self.user.as_raw()
    }

    /// The group's number.
    pub(crate) fn group_id(&self) -> u32 {
        self.group.as_raw()
    }

    /// Whether it is in this group.
    pub(crate) fn is_member(&self, group: Gid) -> bool {
        self.groups.contains(&group)
    }

    /// Whether this process has its user and group already.
    pub(crate) fn is_this_process(&self) -> bool {
        (self.user, self.group) == (geteuid(), getegid())
    }

    /// Whether it is root itself.
    pub(crate) fn is_root(&self) -> bool {
        self.user.is_root()
    }
}

/// Does something with the account's rights to files and comes back. In a folder that belongs to the account, this is how
/// root is not led to files of others. Of this thread alone: setgroups of the C library would change all threads.
pub(crate) fn with_rights_of<T>(
    account: &Account,
    run_as: &RunAs,
    action: impl FnOnce() -> T,
) -> Result<T, PrivilegeError> {
    /// Takes the rights back, however the action ends.
    struct Back(Uid, Gid, Vec<Gid>);
    impl Drop for Back {
        fn drop(&mut self) {
            setfsuid(self.0);
            setfsgid(self.1);
            // Whoever could set them before can do it again; if not, rights are missing and not too many.
            let _ = set_groups_here(&self.2);
        }
    }
    let change = |source| PrivilegeError::Change { run_as: run_as.to_string(), source };
    let _back = Back(geteuid(), getegid(), getgroups().map_err(change)?);
    set_groups_here(&account.groups).map_err(change)?;
    setfsgid(account.group);
    setfsuid(account.user);
    // These calls tell only who it was before.
    if (setfsuid(account.user), setfsgid(account.group)) != (account.user, account.group) {
        return Err(change(nix::Error::EPERM));
    }
    Ok(action())
}

/// Sets the supplementary groups of this thread.
fn set_groups_here(groups: &[Gid]) -> nix::Result<()> {
    let groups: Vec<_> = groups.iter().map(|group| rustix::thread::Gid::from_raw(group.as_raw())).collect();
    set_thread_groups(&groups).map_err(|error| nix::Error::from_raw(error.raw_os_error()))
}

/// The number of a user given by name or number; a number needs no entry in the user database.
pub(crate) fn user_id(name: &str) -> Result<Uid, PrivilegeError> {
    if let Ok(number) = name.parse() {
        return Ok(Uid::from_raw(number));
    }
    find_user(name)?.map(|user| user.uid).ok_or_else(|| PrivilegeError::NoUser(name.to_owned()))
}

fn find_user(name: &str) -> Result<Option<User>, PrivilegeError> {
    match name.parse() {
        Ok(number) => User::from_uid(Uid::from_raw(number)),
        Err(_) => User::from_name(name),
    }
    .map_err(|source| lookup(name, source))
}

fn lookup(name: &str, source: nix::Error) -> PrivilegeError {
    PrivilegeError::Lookup { name: name.to_owned(), source }
}

/// Changes to the account for good: its supplementary groups, then the group, then the user; and gives up all capabilities,
/// also those that the kernel would leave (capabilities(7): inheritable ones, and all with certain secure bits). The bounding
/// set and `no_new_privs` stay as whoever started this has set them: scripts of payloads may be meant to use sudo. Must run
/// while the process has one thread, so that no thread keeps the old rights.
pub(crate) fn drop_to(account: &Account, run_as: &RunAs) -> Result<(), PrivilegeError> {
    let change = |source| PrivilegeError::Change { run_as: run_as.to_string(), source };
    setgroups(&account.groups).map_err(change)?;
    setgid(account.group).map_err(change)?;
    setuid(account.user).map_err(change)?;
    if account.is_root() {
        return Ok(());
    }
    let none = CapabilitySet::empty();
    let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
    // The ambient set never has what is in neither of them.
    set_capabilities(None, none).map_err(PrivilegeError::Capabilities)?;
    if setuid(Uid::from_raw(0)).is_ok() {
        return Err(PrivilegeError::StillRoot { run_as: run_as.to_string() });
    }
    Ok(())
}

/// Sees to it that nobody else can write to what this process and its children make, whatever the mask it was started with;
/// a stricter one stays. What their owner may do is never masked.
pub(crate) fn restrict_umask() {
    let given = umask(Mode::S_IWGRP | Mode::S_IWOTH);
    umask((given | Mode::S_IWGRP | Mode::S_IWOTH) & !Mode::S_IRWXU);
}

/// Whether this process has root's rights to give up.
pub(crate) fn is_root() -> bool {
    geteuid().is_root()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(user: &str, group: Option<&str>) -> Result<Account, String> {
        let run_as = RunAs { user: user.to_owned(), group: group.map(str::to_owned) };
        Account::find(&run_as).map_err(|error| error.to_string())
    }

    #[test]
    fn names_and_numbers() {
        let root = find("root", Some("root")).unwrap();
        assert_eq!((root.user_id(), root.group_id(), root.is_root()), (0, 0, true));
        assert_eq!(find("0", None).unwrap().group_id(), 0);
        assert_eq!(find("root", Some("12")).unwrap().group_id(), 12);
        let unknown = find("4000000", Some("4000001")).unwrap();
        assert_eq!((unknown.user_id(), unknown.group_id(), unknown.is_root()), (4_000_000, 4_000_001, false));
        assert_eq!(unknown.groups, [Gid::from_raw(4_000_001)]);
        assert_eq!(user_id("12345").unwrap().as_raw(), 12345);
        assert_eq!(user_id("root").unwrap().as_raw(), 0);
    }

    #[test]
    fn files_are_made_as_the_account() {
        use std::os::unix::fs::MetadataExt as _;
        let Some(()) = test_support::require::root() else { return };
        let dir = tempfile::tempdir().unwrap();
        let account = find("65534", Some("65534")).unwrap();
        let run_as = RunAs { user: "65534".to_owned(), group: None };
        let make = |name: &str| std::fs::write(dir.path().join(name), "");
        let denied = with_rights_of(&account, &run_as, || make("a")).unwrap().unwrap_err();
        assert_eq!(denied.kind(), std::io::ErrorKind::PermissionDenied);
        std::os::unix::fs::chown(dir.path(), Some(65534), None).unwrap();
        with_rights_of(&account, &run_as, || make("b")).unwrap().unwrap();
        make("c").unwrap();
        let owner =
            |name: &str| std::fs::metadata(dir.path().join(name)).map(|found| (found.uid(), found.gid())).unwrap();
        assert_eq!((owner("b"), owner("c")), ((65534, 65534), (0, 0)));
    }

    #[test]
    fn other_threads_keep_their_groups() {
        let Some(()) = test_support::require::root() else { return };
        let account =
            Account { user: Uid::from_raw(65534), group: Gid::from_raw(65534), groups: vec![Gid::from_raw(4711)] };
        let run_as = RunAs { user: "65534".to_owned(), group: None };
        let before = getgroups().unwrap();
        let (ask, asked) = std::sync::mpsc::channel();
        let (answer, answered) = std::sync::mpsc::channel();
        let other = std::thread::spawn(move || asked.iter().for_each(|()| answer.send(getgroups().unwrap()).unwrap()));
        let found = with_rights_of(&account, &run_as, || {
            ask.send(()).unwrap();
            (getgroups().unwrap(), answered.recv().unwrap())
        });
        assert_eq!(found.unwrap(), (account.groups.clone(), before.clone()));
        assert_eq!(getgroups().unwrap(), before);
        drop(ask);
        other.join().unwrap();
    }

    #[test]
    fn who_does_not_exist_is_named() {
        let no_user = "there is no user 'no-such-user'";
        assert_eq!(find("no-such-user", None).unwrap_err(), no_user);
        assert_eq!(find("root", Some("no-such-group")).unwrap_err(), "there is no group 'no-such-group'");
        assert_eq!(
            find("4000000", None).unwrap_err(),
            "the user 4000000 has no entry in the user database, so its group must be given, too: write '4000000:group'"
        );
    }
}
