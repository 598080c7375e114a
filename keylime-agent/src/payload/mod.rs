// SPDX-License-Identifier: Apache-2.0
//! The payload: what the tenant sends along with its half of the bootstrap key, for the host to use once it has been
//! attested. It is decrypted, unpacked into `<keylime_dir>/secure/unzipped`, and its script is run.

mod archive;
mod cipher;
pub(crate) mod store;

use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::statfs::statfs;
use tokio::sync::{Mutex, MutexGuard, mpsc};

use crate::bootstrap_key::SymmetricKey;
use crate::config::{Payload, Revocation};
use crate::program::{self, ProgramError};
use crate::revocation;
use archive::{Archive, ArchiveError};
use store::Store;

/// Deliveries that wait for the one before.
const QUEUE: usize = 4;
/// Largest list of actions read, in bytes.
const MAX_ACTION_LIST: u64 = 64 << 10;

/// The bootstrap key and what is encrypted under it.
pub(crate) struct Delivery {
    pub(crate) key: SymmetricKey,
    pub(crate) payload: Vec<u8>,
}

/// Why a payload was not deployed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PayloadError {
    #[error("{0}")]
    NoStore(String),
    #[error(transparent)]
    Decrypt(#[from] cipher::DecryptError),
    #[error("cannot write {}: {source}{}", path.display(), advice(source, path))]
    Write { path: PathBuf, source: io::Error },
    #[error(
        "the payload takes {} KiB, and {} has {} KiB without the payload before{}",
        needed.div_ceil(1 << 10), folder.display(), room >> 10, advice(&io::ErrorKind::StorageFull.into(), folder)
    )]
    TooLarge { needed: u64, room: u64, folder: PathBuf },
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    #[error("{0}; the payload before stays")]
    Kept(#[source] Box<PayloadError>),
    #[error("the script {} {source}{}", path.display(), source.limit_of("payload_script_timeout"))]
    Script { path: PathBuf, source: ProgramError },
    #[error("the thread that unpacks it has ended after an error in this program")]
    Thread,
}

/// What to do about an error at a path of the tmpfs.
fn advice(error: &io::Error, path: &Path) -> String {
    if error.kind() != io::ErrorKind::StorageFull {
        return String::new();
    }
    let mount = path.ancestors().find(|path| path.ends_with("secure")).unwrap_or(path);
    format!(
        ": the payload needs a larger option 'secure_size', and a new mount of the folder: stop the agent, 'umount {}', start \
         the agent, and send the payload again",
        mount.display()
    )
}

/// Where payloads are put, shared by all that read or write there.
#[derive(Clone)]
pub(crate) struct Place {
    store: Arc<Store>,
    /// Held while files are written or looked up, not while programs run.
    busy: Arc<Mutex<()>>,
}

impl Place {
    pub(crate) fn new(store: Store) -> Self {
        Self { store: Arc::new(store), busy: Arc::default() }
    }

    /// Keeps the files of the payload as they are until the guard is dropped.
    pub(crate) async fn files(&self) -> MutexGuard<'_, ()> {
        self.busy.lock().await
    }

    /// The folder that the payload's lies in, if there is one.
    pub(crate) fn secure(&self) -> Option<&Path> {
        self.store.path()
    }

    /// The folder of the unpacked payload, or why there is none.
    pub(crate) fn unzipped(&self) -> Result<PathBuf, String> {
        self.store.folder().map(|secure| secure.join("unzipped"))
    }

    /// Says what a kill in the middle of a deployment has left.
    pub(crate) fn warn_of_unfinished(&self) {
        let Ok(folder) = self.unzipped() else { return };
        if unfinished(&folder).exists() {
            tracing::warn!(
                "The payload that was being unpacked when the agent ended is incomplete, and is not used: send it again, with \
                 'keylime_tenant -c update'"
            );
        }
        if running(&folder).exists() {
            tracing::warn!(
                "The script of the payload in {} had not ended when the agent did, so a part of its work may be missing: send \
                 the payload again, with 'keylime_tenant -c update'",
                folder.display()
            );
        }
    }
}

/// What deploys payloads, one after the other.
pub(crate) struct Deployer {
    options: Payload,
    revocation: Revocation,
    place: Place,
    deliveries: mpsc::Receiver<Delivery>,
    /// The script that runs.
    script: Option<PathBuf>,
}

impl Deployer {
    /// The deployer and what hands it deliveries.
    pub(crate) fn new(options: Payload, revocation: Revocation, place: Place) -> (mpsc::Sender<Delivery>, Self) {
        let (sender, deliveries) = mpsc::channel(QUEUE);
        (sender, Self { options, revocation, place, deliveries, script: None })
    }

    /// Deploys what comes, without end. When this is dropped, a running script is killed; files stay where they are, for the
    /// tenant sends them only once.
    pub(crate) async fn run(mut self) {
        while let Some(delivery) = self.deliveries.recv().await {
            match self.deploy(delivery).await {
                Ok(()) => tracing::info!("Successfully executed encrypted payload"),
                Err(error) => tracing::error!("Failed to run encrypted payload: {error}"),
            }
        }
        std::future::pending().await
    }

    async fn deploy(&mut self, delivery: Delivery) -> Result<(), PayloadError> {
        let folder = self.place.unzipped().map_err(PayloadError::NoStore)?;
        {
            let _files = self.place.files().await;
            let (options, revocation, folder) = (self.options.clone(), self.revocation.clone(), folder.clone());
            let unpacked = tokio::task::spawn_blocking(move || {
                unpack(&options, delivery, &folder).map_err(|error| match folder.exists() {
                    true => PayloadError::Kept(Box::new(error)),
                    false => error,
                })?;
                prepare_actions(&revocation, &folder)
            });
            unpacked.await.map_err(|_| PayloadError::Thread)??;
        }
        match self.options.script.clone() {
            Some(script) => self.run_script(&script, &folder).await,
            None => {
                tracing::info!("No payload script specified, skipping");
                Ok(())
            }
        }
    }

    async fn run_script(&mut self, name: &str, folder: &Path) -> Result<(), PayloadError> {
        tracing::info!("Payload init script indicated: {name}");
        let path = folder.join(name);
        if !path.is_file() {
            tracing::info!("No payload script {name} found in {}", folder.display());
            return Ok(());
        }
        make_executable(&path)?;
        tracing::info!("Running script: {}", path.display());
        tracing::info!("Executing payload script: {}", path.display());
        let mark = running(folder);
        if let Err(error) = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&mark) {
            tracing::debug!("cannot write {}: {error}", mark.display());
        }
        self.script = Some(path.clone());
        let (output, result) = program::run(&path, None, folder, self.options.script_timeout).await;
        self.script = None;
        let _ = std::fs::remove_file(&mark);
        for line in output.stdout.lines() {
            tracing::debug!("Script stdout: {line}");
        }
        match result {
            Ok(()) => {
                for line in output.stderr.lines() {
                    tracing::debug!("Script stderr: {line}");
                }
                tracing::info!("{} ran successfully", path.display());
                Ok(())
            }
            Err(source) => {
                for line in output.stderr.lines() {
                    tracing::warn!("Script stderr: {line}");
                }
                Err(PayloadError::Script { path, source })
            }
        }
    }
}

impl Drop for Deployer {
    /// The tenant has been told that it was taken.
    fn drop(&mut self) {
        if let Some(path) = &self.script {
            tracing::warn!(
                "The payload script {} is killed, as the agent ends, so a part of its work may be missing: send the payload \
                 again, with 'keylime_tenant -c update'",
                path.display()
            );
        }
    }
}

/// Decrypts and checks everything, writes it beside what an earlier payload has left, and puts it in its place.
fn unpack(options: &Payload, delivery: Delivery, folder: &Path) -> Result<(), PayloadError> {
    let Delivery { key, payload } = delivery;
    let text = cipher::decrypt(&key, payload)?;
    tracing::info!("Successfully decrypted payload");
    let is_archive = options.extract_zip && archive::is_archive(&text);
    let archive = is_archive.then(|| Archive::parse(&text, &[&options.key_name, &options.text_name])).transpose()?;
    let content = Content { options, key: &key, text: &text, archive };
    let new = unfinished(folder);
    remove(&new)?;
    if !content.fits_beside(folder)? {
        remove(folder)?;
    }
    content.write(&new).inspect_err(|_| {
        // Where it cannot be removed now, the next payload or the next start says so.
        let _ = remove(&new);
    })?;
    remove(folder)?;
    let _ = std::fs::remove_file(running(folder));
    std::fs::rename(&new, folder).map_err(failed(folder))?;
    tracing::info!("Wrote payload decryption key to {}", folder.join(&options.key_name).display());
    tracing::info!("Wrote decrypted payload to {}", folder.join(&options.text_name).display());
    if is_archive {
        tracing::info!("Unzipping payload {} to {}", options.text_name, folder.display());
    } else if options.extract_zip {
        tracing::info!("The payload is no zip archive: it stays as it is");
    }
    Ok(())
}

/// Makes the actions that a new payload lists executable, and says which of them cannot be run at a revocation.
fn prepare_actions(revocation: &Revocation, folder: &Path) -> Result<(), PayloadError> {
    let listed = listed_actions(folder).unwrap_or_else(|error| {
        tracing::warn!("cannot read {}: {error}", folder.join(ACTION_LIST).display());
        None
    });
    for name in listed.unwrap_or_default() {
        let path = folder.join(&name);
        if is_plain_name(&name) && path.is_file() {
            make_executable(&path)?;
            tracing::info!("Permission set for action: {}", path.display());
        }
        if let Err(error) = revocation::locate(revocation, &name, Some(folder)) {
            tracing::warn!("The payload's action_list: {error}");
        }
    }
    Ok(())
}

/// Where a payload is written before it gets its place.
fn unfinished(folder: &Path) -> PathBuf {
    folder.with_extension("new")
}

/// There while the payload's script runs, and from then on if it is stopped with the agent.
fn running(folder: &Path) -> PathBuf {
    folder.with_extension("running")
}

fn failed(path: &Path) -> impl Fn(io::Error) -> PayloadError + use<> {
    let path = path.to_owned();
    move |source| PayloadError::Write { path: path.clone(), source }
}

/// Removes a folder if it is there.
fn remove(folder: &Path) -> Result<(), PayloadError> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(folder)(error)),
        _ => Ok(()),
    }
}

/// How many bytes of the file system the files of a folder take. What cannot be read counts as nothing.
fn taken(folder: &Path) -> u64 {
    let mut bytes = 0;
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(found) if found.is_dir() => folders.push(entry.path()),
                // In units of 512 bytes, as in stat(2).
                Ok(found) => bytes += found.blocks() * 512,
                Err(_) => {}
            }
        }
    }
    bytes
}

/// A checked payload.
struct Content<'a> {
    options: &'a Payload,
    key: &'a SymmetricKey,
    text: &'a [u8],
    archive: Option<Archive<'a>>,
}

impl Content<'_> {
    /// Whether there is room for it beside the payload before, or only in its place.
    ///
    /// # Errors
    /// It does not even fit in its place, which is told while that payload is still there.
    fn fits_beside(&self, before: &Path) -> Result<bool, PayloadError> {
        let folder = before.parent().unwrap_or(before);
        let found = statfs(folder).map_err(|error| failed(&unfinished(before))(error.into()))?;
        if found.blocks() == 0 {
            // So a tmpfs without a limit, and a file system that does not tell.
            return Ok(true);
        }
        let block = u64::try_from(found.block_size()).unwrap_or(1).max(1);
        // Folders and empty files take nothing of a tmpfs.
        let lengths = [self.key.bytes().len(), self.text.len()].into_iter();
        let lengths = lengths.chain(self.archive.iter().flat_map(Archive::lengths));
        let needed = lengths.map(|length| (length as u64).next_multiple_of(block)).sum();
        let free = found.blocks_available().saturating_mul(block);
        let room = free.saturating_add(taken(before));
        if needed > room {
            return Err(PayloadError::TooLarge { needed, room, folder: folder.to_owned() });
        }
        Ok(needed <= free)
    }

    /// Writes all files into a new folder.
    fn write(&self, folder: &Path) -> Result<(), PayloadError> {
        DirBuilder::new().mode(0o700).create(folder).map_err(failed(folder))?;
        for (name, content) in [(&self.options.key_name, self.key.bytes()), (&self.options.text_name, self.text)] {
            let path = folder.join(name);
            if let Some(parent) = path.parent() {
                DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(failed(parent))?;
            }
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
            file.and_then(|mut file| file.write_all(content)).map_err(failed(&path))?;
        }
        match &self.archive {
            Some(archive) => Ok(archive.extract(folder)?),
            None => Ok(()),
        }
    }
}

const ACTION_LIST: &str = "action_list";

/// The revocation actions that the payload names, separated by commas or white space; `None` if it has no list.
pub(crate) fn listed_actions(folder: &Path) -> io::Result<Option<Vec<String>>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    match std::fs::File::open(folder.join(ACTION_LIST)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?.take(MAX_ACTION_LIST + 1).read_to_end(&mut bytes)?,
    };
    if bytes.len() as u64 > MAX_ACTION_LIST {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is longer than 64 KiB"));
    }
    // A name that is not UTF-8 is that of no file here, and is reported as missing.
    let text = String::from_utf8_lossy(&bytes);
    let names = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|name| !name.is_empty());
    Ok(Some(names.map(str::to_owned).collect()))
}

/// Whether this names a file of a folder and not a path that leads elsewhere.
pub(crate) fn is_plain_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    let is_one = matches!((components.next(), components.next()), (Some(std::path::Component::Normal(_)), None));
    is_one && !name.contains('/')
}

pub(crate) fn make_executable(path: &Path) -> Result<(), PayloadError> {
    std::fs::set_permissions(path, Permissions::from_mode(0o700))
        .map_err(|source| PayloadError::Write { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
