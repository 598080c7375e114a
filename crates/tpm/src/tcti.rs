// SPDX-License-Identifier: Apache-2.0
//! Which TPM to open, and what to tell a person when that fails.
//!
//! The TCTI text is libtss2's: `device:/dev/tpmrm0`, `swtpm:host=127.0.0.1,port=2321`, `swtpm:path=/run/tpm.sock`,
//! `mssim:...`, `tabrmd:`.

use crate::connection::find_library;
use crate::error::{OpenCause, TpmError};
use nix::unistd::{AccessFlags, access};
use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// Device with the kernel's resource manager.
const RESOURCE_MANAGER: &str = "/dev/tpmrm0";
/// The bare device, which one program at a time can open.
const BARE_DEVICE: &str = "/dev/tpm0";

/// What of its own libtss2 logs.
const LOG_VARIABLE: &str = "TSS2_LOG";
static IS_SILENCED: AtomicBool = AtomicBool::new(false);

/// Picks the TCTI text: the setting, else the kernel's resource manager if `exists` knows it, else the bare device.
///
/// An empty text counts as absent.
pub(crate) fn choose(setting: Option<&str>, exists: impl Fn(&Path) -> bool) -> String {
    match setting.map(str::trim).filter(|text| !text.is_empty()) {
        Some(text) => text.to_owned(),
        None if exists(Path::new(RESOURCE_MANAGER)) => format!("device:{RESOURCE_MANAGER}"),
        None => format!("device:{BARE_DEVICE}"),
    }
}

/// The file of a `device:` TCTI; an empty path is libtss2's own default.
pub(crate) fn device_path(tcti: &str) -> Option<&Path> {
    let path = tcti.strip_prefix("device:")?;
    Some(Path::new(if path.is_empty() { RESOURCE_MANAGER } else { path }))
}

/// Turns a refusal to open into the error that names the TCTI, the cause and the remedy.
///
/// libtss2 says "input/output error" for everything and prints the cause on standard error, so for a device file
/// the cause is found here by opening it.
pub(crate) fn explain(tcti: &str, cause: OpenCause) -> TpmError {
    let cause = match (cause, device_path(tcti)) {
        (OpenCause::Library(code), Some(path)) => match OpenOptions::new().read(true).write(true).open(path) {
            Ok(_) => OpenCause::Library(code),
            Err(error) => OpenCause::Device(error),
        },
        (cause, _) => cause,
    };
    let remedy = remedy(tcti, &cause);
    TpmError::Open { tcti: tcti.to_owned(), cause, remedy }
}

/// Whether the TPM's device is there and open to this user, or the TCTI's library is there. The TPM is not opened.
///
/// # Errors
/// [`TpmError::Open`], as opening it would give.
pub fn check(setting: Option<&str>) -> Result<(), TpmError> {
    let tcti = choose(setting, Path::exists);
    let found = match device_path(&tcti) {
        Some(path) => access(path, AccessFlags::R_OK | AccessFlags::W_OK).map_err(|e| OpenCause::Device(e.into())),
        None => find_library(&tcti),
    };
    found.map_err(|cause| TpmError::Open { remedy: remedy(&tcti, &cause), tcti, cause })
}

fn remedy(tcti: &str, cause: &OpenCause) -> &'static str {
    let network = ["swtpm", "mssim"].iter().any(|name| tcti.starts_with(name));
    match cause {
        OpenCause::Device(error) => match error.kind() {
            ErrorKind::PermissionDenied => "let the service's user be a member of group tss, which owns the device",
            ErrorKind::NotFound if device_path(tcti) == Some(Path::new(BARE_DEVICE)) => {
                "without a setting /dev/tpmrm0 is taken, or else this one: is there a TPM 2.0, enabled in the firmware settings? Else set the TCTI option or the environment variable TCTI"
            }
            ErrorKind::NotFound => {
                "is there a TPM 2.0, enabled in the firmware settings? Else set the TCTI option or the environment variable TCTI"
            }
            ErrorKind::ResourceBusy => "another program holds the bare device: use device:/dev/tpmrm0",
            _ => "see the kernel's messages about tpm (`dmesg | grep -i tpm`)",
        },
        OpenCause::Tpm(inner) => match inner.as_ref() {
            TpmError::Command { code, .. } if code.is_reset() => "start the TPM with `tpm2_startup -c` or reset it",
            TpmError::NoRoom { .. } => "then start again",
            _ if network => "is the software TPM running there, and free to answer?",
            _ => "reset the TPM, or see the kernel's messages about tpm (`dmesg | grep -i tpm`)",
        },
        OpenCause::NulByte => "correct the TCTI option or the environment variable TCTI",
        OpenCause::Library(_) if network => {
            "is the software TPM running there, and is its TCTI library installed (Debian: libtss2-tcti-swtpm0 or libtss2-tcti-mssim0)?"
        }
        OpenCause::Library(_) => {
            "check the spelling (name:options) and that the TCTI's library is installed (Debian: libtss2-tcti-NAME0)"
        }
    }
}

/// Keeps libtss2's own log lines off standard error unless the user has set `TSS2_LOG`.
///
/// People take its `ERROR` and `WARNING` lines for fatal; what matters is in the errors of this crate. Must run
/// while the process has only one thread, first thing in `main`; otherwise nothing is changed. Returns whether
/// libtss2 is silent or under the user's control.
pub fn silence_library_log() -> bool {
    if std::env::var_os(LOG_VARIABLE).is_some() {
        return true;
    }
    let threads = std::fs::read_dir("/proc/self/task").map_or(0, |tasks| tasks.count());
    if threads != 1 {
        return false;
    }
    // SAFETY: this is the only thread of the process, so nobody reads the environment meanwhile.
    unsafe { std::env::set_var(LOG_VARIABLE, "all+none") };
    IS_SILENCED.store(true, Ordering::Relaxed);
    true
}

/// The environment variable that [`silence_library_log`] has set in this process, if it has: programs that are started
/// from here need not inherit it.
pub fn own_variable() -> Option<&'static str> {
    IS_SILENCED.load(Ordering::Relaxed).then_some(LOG_VARIABLE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::response_code::ResponseCode;
    use std::io;

    #[test]
    fn the_setting_wins_over_the_devices() {
        let rows = [
            (Some(" tabrmd: "), true, "tabrmd:"),
            (None, true, "device:/dev/tpmrm0"),
            (Some(""), false, "device:/dev/tpm0"),
        ];
        for (setting, exists, expected) in rows {
            assert_eq!(choose(setting, |_| exists), expected);
        }
    }

    #[test]
    fn a_missing_device_names_the_tcti_and_what_to_do() {
        let error = explain("device:/nonexistent/tpm9", OpenCause::Library(ResponseCode(0xA000A)));
        assert_eq!(
            error.to_string(),
            "cannot open the TPM through TCTI `device:/nonexistent/tpm9`: No such file or directory (os error 2); \
             is there a TPM 2.0, enabled in the firmware settings? Else set the TCTI option or the environment \
             variable TCTI"
        );
    }

    #[test]
    fn what_is_not_there_is_found_without_opening_it() {
        let text = |tcti: &str| check(Some(tcti)).unwrap_err().to_string();
        assert_eq!(check(Some("device:/dev/null")).map_err(|error| error.to_string()), Ok(()));
        assert_eq!(check(Some("device:/nonexistent/tpm9")).unwrap_err().to_string(), {
            let cause = OpenCause::Library(ResponseCode(0xA000A));
            explain("device:/nonexistent/tpm9", cause).to_string()
        });
        let found = text("foo:bar");
        assert!(found.starts_with("cannot open the TPM through TCTI `foo:bar`: "), "{found}");
        assert!(found.ends_with("installed (Debian: libtss2-tcti-NAME0)"), "{found}");
        // The name is all that is looked at.
        assert_eq!(check(Some("swtpm:path=/nonexistent")).map_err(|error| error.to_string()), Ok(()));
    }

    #[test]
    fn remedies_by_cause() {
        let device = |kind| OpenCause::Device(io::Error::from(kind));
        let library = OpenCause::Library(ResponseCode(0xA000A));
        let rows = [
            ("device:/dev/tpmrm0", device(ErrorKind::PermissionDenied), "group tss"),
            ("device:/dev/tpm0", device(ErrorKind::ResourceBusy), "device:/dev/tpmrm0"),
            ("device:/dev/tpm0", device(ErrorKind::Other), "dmesg"),
            ("device:/dev/tpm0", device(ErrorKind::NotFound), "/dev/tpmrm0 is taken, or else this one: is there a TPM"),
            ("swtpm:port=1", library, "software TPM running"),
            ("nonsense", OpenCause::Library(ResponseCode(0xA0005)), "spelling"),
            ("nonsense", OpenCause::NulByte, "correct the TCTI option"),
        ];
        for (tcti, cause, part) in rows {
            let text = remedy(tcti, &cause);
            assert!(text.contains(part), "{tcti}: {text}");
        }
    }
}
