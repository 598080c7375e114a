// SPDX-License-Identifier: Apache-2.0
//! Giving up root (`run_as`).

use nix::unistd::{Gid, Group, Uid, User, getegid, geteuid, initgroups, setfsgid, setfsuid, setgid, setuid};

use crate::config::RunAs;

/// Why privileges could not be dropped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PrivilegeError {
    #[error("there is no user '{0}'")]
    NoUser(String),
    #[error("there is no group '{0}'")]
    NoGroup(String),
    #[error("cannot look up '{name}': {source}")]
    Lookup { name: String, source: nix::Error },
    #[error("cannot change to user and group {run_as}: {source}")]
    Change { run_as: String, source: nix::Error },
}

/// The user and group to change to.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    user: User,
    group: Gid,
}

impl Account {
    /// Looks up user and group, which may be given by name or by number.
    pub(crate) fn find(run_as: &RunAs) -> Result<Self, PrivilegeError> {
        let user = find_user(&run_as.user)?.ok_or_else(|| PrivilegeError::NoUser(run_as.user.clone()))?;
        let group = match &run_as.group {
            None => user.gid,
            Some(name) => match name.parse() {
                Ok(number) => Gid::from_raw(number),
                Err(_) => {
                    Group::from_name(name)
                        .map_err(|source| lookup(name, source))?
                        .ok_or_else(|| PrivilegeError::NoGroup(name.clone()))?
                        .gid
                }
            },
        };
        Ok(Self { user, group })
    }

    /// The user's number.
    pub(crate) fn user_id(&self) -> u32 {
        self.user.uid.as_raw()
    }

    /// The group's number.
    pub(crate) fn group_id(&self) -> u32 {
        self.group.as_raw()
    }
}

/// Does something with the account's rights to files and comes back. In a folder that belongs to the account, this is how
/// root is not led to files of others. Of this thread alone, and without the account's supplementary groups.
pub(crate) fn with_rights_of<T>(
    account: &Account,
    run_as: &RunAs,
    action: impl FnOnce() -> T,
) -> Result<T, PrivilegeError> {
    /// Takes the rights back, however the action ends.
    struct Back(Uid, Gid);
    impl Drop for Back {
        fn drop(&mut self) {
            setfsuid(self.0);
            setfsgid(self.1);
        }
    }
    let _back = Back(geteuid(), getegid());
    setfsgid(account.group);
    setfsuid(account.user.uid);
    // These calls tell only who it was before.
    if (setfsuid(account.user.uid), setfsgid(account.group)) != (account.user.uid, account.group) {
        return Err(PrivilegeError::Change { run_as: run_as.to_string(), source: nix::Error::EPERM });
    }
    Ok(action())
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

/// Changes to the account for good: its supplementary groups, then the group, then the user. Must run while the process
/// has one thread, so that no thread keeps the old rights.
pub(crate) fn drop_to(account: &Account, run_as: &RunAs) -> Result<(), PrivilegeError> {
    let change = |source| PrivilegeError::Change { run_as: run_as.to_string(), source };
    let name = std::ffi::CString::new(account.user.name.as_bytes()).map_err(|_| change(nix::Error::EINVAL))?;
    initgroups(&name, account.group).map_err(change)?;
    setgid(account.group).map_err(change)?;
    setuid(account.user.uid).map_err(change)
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
        assert_eq!((root.user.uid.as_raw(), root.group.as_raw()), (0, 0));
        assert_eq!(find("0", None).unwrap().group.as_raw(), 0);
        assert_eq!(find("root", Some("12")).unwrap().group.as_raw(), 12);
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
    fn who_does_not_exist_is_named() {
        let no_user = "there is no user 'no-such-user'";
        assert_eq!(find("no-such-user", None).unwrap_err(), no_user);
        assert_eq!(find("root", Some("no-such-group")).unwrap_err(), "there is no group 'no-such-group'");
    }
}
