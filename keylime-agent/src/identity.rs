// SPDX-License-Identifier: Apache-2.0
//! Where the agent id comes from (`uuid`), as far as it is known before the TPM is asked.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use dns_lookup::{AddrInfoHints, LookupError};
use keylime_api::{AgentId, InvalidAgentId};

/// The variable that `environment` means; it also overrides the option, as the variables of all options do.
pub(crate) const VARIABLE: &str = "KEYLIME_AGENT_UUID";

/// Where Linux shows the product UUID of the SMBIOS system information (DMTF DSP0134, "System Information (Type 1)") in
/// the byte order that dmidecode prints, too. Readable by root only.
const PRODUCT_UUID: &str = "/sys/class/dmi/id/product_uuid";
/// More than any UUID has, in bytes.
const PRODUCT_UUID_LIMIT: u64 = 64;
/// How long the name service may take to complete the host's name.
const NAME_LIMIT: Duration = Duration::from_secs(30);

/// Agent ids of distributed samples. Hosts that keep one claim to be the same host.
const SAMPLES: &[&str] = &[
    "d432fbb3-d2f1-4a97-9ef7-75bd81c00000",
    "c432fbb3-d2f1-4a97-9ef7-75bd81c00000",
    "00000000-0000-0000-0000-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
];

/// What boards report whose maker has set no number, and what hosts are called that have no name.
const PLACEHOLDERS: &[&str] = &[
    "03000200-0400-0500-0006-000700080009",
    "00020003-0004-0005-0006-000700080009",
    "localhost",
    "localhost.localdomain",
];

/// Where the agent id comes from (`uuid`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UuidSource {
    /// `hash_ek`: SHA-256 over the public EK in PEM form, 64 hexadecimal digits.
    HashEk,
    /// `generate`: a random UUID, a new one at each start.
    Generate,
    /// `dmidecode`: the product UUID of the SMBIOS, in lower case with hyphens.
    Dmidecode,
    /// `hostname`: the host's full name.
    Hostname,
    /// `environment`: what the variable `KEYLIME_AGENT_UUID` holds.
    Environment(AgentId),
    /// This UUID, in lower case with hyphens.
    Fixed(AgentId),
}

impl UuidSource {
    /// Reads the option. An id from the environment may be any id, if the configuration file asks for one (`any_id`);
    /// elsewhere what is not a UUID is most likely a slip, and a host must not change its name by one.
    pub(crate) fn parse(text: &str, any_id: bool) -> Result<Self, String> {
        match text.trim() {
            "hash_ek" => Ok(Self::HashEk),
            "generate" => Ok(Self::Generate),
            "dmidecode" => Ok(Self::Dmidecode),
            "hostname" => Ok(Self::Hostname),
            "environment" => Err(format!("the environment variable {VARIABLE}, which is to hold the id, is not set")),
            "openstack" => Err("'openstack' is not supported: set KEYLIME_AGENT_UUID to the instance's id".to_owned()),
            other => match uuid::Uuid::parse_str(other).map(|uuid| uuid.hyphenated().to_string().parse()) {
                Ok(Ok(id)) if any_id => Ok(Self::Environment(id)),
                Ok(Ok(id)) => Ok(Self::Fixed(id)),
                _ if any_id => other.parse().map(Self::Environment).map_err(|error: InvalidAgentId| error.to_string()),
                _ => Err(format!(
                    "expected 'hash_ek', 'generate', 'dmidecode', 'hostname', 'environment' or a UUID, found '{other}'"
                )),
            },
        }
    }

    /// The id, if the option holds it.
    pub(crate) fn given(&self) -> Option<&AgentId> {
        match self {
            Self::Fixed(id) | Self::Environment(id) => Some(id),
            _ => None,
        }
    }
}

impl fmt::Display for UuidSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HashEk => f.write_str("hash_ek"),
            Self::Generate => f.write_str("generate"),
            Self::Dmidecode => f.write_str("dmidecode"),
            Self::Hostname => f.write_str("hostname"),
            Self::Environment(_) => f.write_str("environment"),
            Self::Fixed(id) => write!(f, "{id}"),
        }
    }
}

/// Why the host has no id of the kind that is asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdentityError {
    #[error(
        "cannot read the product UUID from {}: {source}. The machine's firmware must have one, and the agent be started \
         as root",
        path.display()
    )]
    ProductUuid { path: PathBuf, source: io::Error },
    #[error("the product UUID in {} is '{found}', which is not a UUID that tells hosts apart", path.display())]
    NoProductUuid { path: PathBuf, found: String },
    #[error("cannot read the host's name: {0}")]
    HostName(#[source] io::Error),
    #[error("the name service does not know the full name of this host ('{name}'): {reason}")]
    FullName { name: String, reason: String },
    #[error("the host's name '{name}' cannot be an agent id: {source}")]
    Name { name: String, source: InvalidAgentId },
    #[error("cannot start a thread: {0}")]
    Thread(#[source] io::Error),
}

/// What can be found with the rights of the start only, which the user of `run_as` has not: the product UUID.
pub(crate) fn find_as_root(source: &UuidSource) -> Option<Result<AgentId, IdentityError>> {
    (*source == UuidSource::Dmidecode).then(|| product_uuid(Path::new(PRODUCT_UUID)))
}

/// The id, unless it cannot be known yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Choice {
    /// Follows from the EK.
    HashEk,
    /// Made at random.
    Generate,
    Known(AgentId),
}

/// The id as the option gives it, as [`find_as_root`] has found it or as the host is called. Logs what is odd about one
/// that was found.
pub(crate) fn find(
    source: &UuidSource,
    found_as_root: Option<Result<AgentId, IdentityError>>,
) -> Result<Choice, IdentityError> {
    let found = match source {
        UuidSource::HashEk => return Ok(Choice::HashEk),
        UuidSource::Generate => return Ok(Choice::Generate),
        UuidSource::Fixed(id) | UuidSource::Environment(id) => return Ok(Choice::Known(id.clone())),
        UuidSource::Dmidecode => found_as_root.unwrap_or_else(|| product_uuid(Path::new(PRODUCT_UUID))),
        UuidSource::Hostname => host_name(),
    };
    let id = found?;
    if let Some(warning) = shared(&id) {
        tracing::warn!("option 'uuid': {warning}");
    }
    Ok(Choice::Known(id))
}

/// What to say of an id that other hosts may have, too.
pub(crate) fn shared(id: &AgentId) -> Option<String> {
    let claim = if SAMPLES.contains(&id.as_str()) {
        "is a sample that every host with an unchanged configuration claims"
    } else if PLACEHOLDERS.contains(&id.as_str()) {
        "is what hosts report that have been given nothing of their own"
    } else {
        return None;
    };
    Some(format!(
        "{id} {claim}, so hosts may be taken for one another: set uuid = \"hash_ek\"; the agent id is another then, and the \
         host has to be added anew"
    ))
}

fn product_uuid(path: &Path) -> Result<AgentId, IdentityError> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(PRODUCT_UUID_LIMIT).read_to_string(&mut text));
    read.map_err(|source| IdentityError::ProductUuid { path: path.to_owned(), source })?;
    let found = text.trim();
    // All zeros and all ones say that there is none.
    let uuid = uuid::Uuid::parse_str(found).ok().filter(|uuid| !uuid.is_nil() && !uuid.is_max());
    uuid.and_then(|uuid| uuid.hyphenated().to_string().parse().ok())
        .ok_or_else(|| IdentityError::NoProductUuid { path: path.to_owned(), found: found.to_owned() })
}

/// The kernel's name for this host if it has a domain, else the name that the name service completes it to (as
/// `hostname -f`). Without an answer there is no id: it must not depend on a name server being up.
fn host_name() -> Result<AgentId, IdentityError> {
    let name = dns_lookup::get_hostname().map_err(IdentityError::HostName)?;
    let full = if name.contains('.') { name } else { full_name(name)? };
    let full = full.strip_suffix('.').unwrap_or(&full);
    full.parse().map_err(|source| IdentityError::Name { name: full.to_owned(), source })
}

fn full_name(name: String) -> Result<String, IdentityError> {
    let (sender, receiver) = mpsc::channel();
    let asked = name.clone();
    // It cannot be interrupted; one that is late is left behind by the process, which ends.
    let thread = thread::Builder::new().name("name service".to_owned());
    let thread = thread.spawn(move || {
        // Whoever waited may have gone.
        let _ = sender.send(canonical_name(&asked));
    });
    let thread = thread.map_err(IdentityError::Thread)?;
    let answer = receiver.recv_timeout(NAME_LIMIT);
    let reason = match answer {
        Ok(answer) => {
            // Has sent its last, so this does not wait; a panic has been printed.
            let _ = thread.join();
            match answer {
                Ok(Some(full)) => return Ok(full),
                Ok(None) => "it gives no name".to_owned(),
                Err(error) => io::Error::from(error).to_string(),
            }
        }
        Err(_) => format!("no answer within {} s", NAME_LIMIT.as_secs()),
    };
    Err(IdentityError::FullName { name, reason })
}

fn canonical_name(name: &str) -> Result<Option<String>, LookupError> {
    let hints = AddrInfoHints { flags: nix::libc::AI_CANONNAME, ..AddrInfoHints::default() };
    let answers = dns_lookup::getaddrinfo(Some(name), None, Some(hints))?;
    // It stands in the first answer.
    Ok(answers.flatten().find_map(|answer| answer.canonname))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_and_slip() {
        const UUID: &str = "5d01d4f6-3c2e-4b36-9a57-1f3c7ed9a001";
        let id = || UUID.parse().unwrap();
        let expected = |text: &str| {
            Err(format!(
                "expected 'hash_ek', 'generate', 'dmidecode', 'hostname', 'environment' or a UUID, found '{text}'"
            ))
        };
        let unset = "the environment variable KEYLIME_AGENT_UUID, which is to hold the id, is not set";
        for (text, any_id, source) in [
            ("hash_ek", false, Ok(UuidSource::HashEk)),
            (" generate ", false, Ok(UuidSource::Generate)),
            ("dmidecode", false, Ok(UuidSource::Dmidecode)),
            ("hostname", true, Ok(UuidSource::Hostname)),
            ("5D01D4F63C2E4B369A571F3C7ED9A001", false, Ok(UuidSource::Fixed(id()))),
            (UUID, true, Ok(UuidSource::Environment(id()))),
            ("host7.example", true, Ok(UuidSource::Environment("host7.example".parse().unwrap()))),
            ("host7.example", false, expected("host7.example")),
            ("hash-ek", false, expected("hash-ek")),
            ("", false, expected("")),
            ("environment", false, Err(unset.to_owned())),
            ("environment", true, Err(unset.to_owned())),
            ("a/b", true, Err("the agent id holds '/', only A-Z a-z 0-9 . _ - are allowed".to_owned())),
            (
                "openstack",
                false,
                Err("'openstack' is not supported: set KEYLIME_AGENT_UUID to the instance's id".to_owned()),
            ),
        ] {
            assert_eq!(UuidSource::parse(text, any_id), source, "{text}");
        }
    }

    #[test]
    fn the_product_uuid_is_read_as_dmidecode_prints_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("product_uuid");
        let shown = path.display().to_string();
        let long = "7".repeat(64);
        for (text, id) in [
            ("4C4C4544-0042-3510-8053-B4C04F564433\n", Ok("4c4c4544-0042-3510-8053-b4c04f564433")),
            ("00000000-0000-0000-0000-000000000000\n", Err("00000000-0000-0000-0000-000000000000")),
            ("FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF\n", Err("FFFFFFFF-FFFF-FFFF-FFFF-FFFFFFFFFFFF")),
            ("Not Settable\n", Err("Not Settable")),
            ("", Err("")),
            (&"7".repeat(1000), Err(long.as_str())),
        ] {
            std::fs::write(&path, text).unwrap();
            let found = product_uuid(&path).map(|id| id.to_string()).map_err(|error| error.to_string());
            let id = id.map(str::to_owned).map_err(|found| {
                format!("the product UUID in {shown} is '{found}', which is not a UUID that tells hosts apart")
            });
            assert_eq!(found, id);
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(
            product_uuid(&path).unwrap_err().to_string(),
            format!(
                "cannot read the product UUID from {shown}: No such file or directory (os error 2). The machine's \
                 firmware must have one, and the agent be started as root"
            )
        );
    }

    #[test]
    fn ids_that_others_have_too_are_warned_about() {
        let rest = ", so hosts may be taken for one another: set uuid = \"hash_ek\"; the agent id is another then, and the \
                    host has to be added anew";
        for id in SAMPLES {
            let text = shared(&id.parse().unwrap()).unwrap();
            let claim = "is a sample that every host with an unchanged configuration claims";
            assert_eq!(text, format!("{id} {claim}{rest}"));
        }
        for id in PLACEHOLDERS {
            let text = shared(&id.parse().unwrap()).unwrap();
            let claim = "is what hosts report that have been given nothing of their own";
            assert_eq!(text, format!("{id} {claim}{rest}"));
        }
        assert_eq!(shared(&"d432fbb3-d2f1-4a97-9ef7-75bd81c00001".parse().unwrap()), None);
    }

    #[test]
    fn a_name_that_nobody_knows_is_no_id() {
        // RFC 6761: never a name of the DNS; without a name server the answer is another, but not a name either.
        let error = full_name("host7.invalid".to_owned()).unwrap_err().to_string();
        let begin = "the name service does not know the full name of this host ('host7.invalid'): ";
        assert!(error.starts_with(begin), "{error}");
    }
}
