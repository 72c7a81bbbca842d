//! Programs that are not ours, and the kernel.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The tools' places.
#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) qemu: PathBuf,
    pub(crate) busybox: PathBuf,
    pub(crate) kernel: PathBuf,
    /// The folder of the kernel's modules.
    pub(crate) modules: PathBuf,
}

impl Tools {
    /// What is found in `PATH`, and the kernel that `MEMORY_MODEL_KERNEL` names, or else the first of `/boot/vmlinuz*`. Its
    /// modules lie where its package has them: beside `boot`, in `lib/modules`.
    ///
    /// `None` if something is missing, or if `MEMORY_MODEL_QEMU=skip`; the reason is printed.
    ///
    /// # Panics
    /// If something is missing and `MEMORY_MODEL_QEMU=require`.
    pub(crate) fn get() -> Option<&'static Self> {
        static TOOLS: OnceLock<Result<Tools, String>> = OnceLock::new();
        let wish = env::var("MEMORY_MODEL_QEMU").unwrap_or_default();
        if wish == "skip" {
            memory_model_test_support::skip!("not wanted: MEMORY_MODEL_QEMU=skip");
            return None;
        }
        match TOOLS.get_or_init(Self::find) {
            Ok(tools) => Some(tools),
            Err(missing) => {
                assert!(wish != "require", "{missing}");
                memory_model_test_support::skip!("no QEMU or kernel: {missing}");
                None
            }
        }
    }

    fn find() -> Result<Self, String> {
        let kernel = kernel()?;
        // vmlinuz-6.1.0-57-cloud-amd64
        let release = kernel.file_name().and_then(|name| name.to_str()?.strip_prefix("vmlinuz-"));
        let package = kernel.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
        let modules = package.join("lib/modules").join(release.ok_or("the kernel's name is not vmlinuz-RELEASE")?);
        if !modules.is_dir() {
            return Err(format!("the kernel's modules are not in {}", modules.display()));
        }
        for tool in ["mkfs.ext4", "e2fsck", "debugfs", "sha256sum"] {
            program(tool)?;
        }
        let busybox = program("busybox")?;
        let bytes = std::fs::read(&busybox).map_err(|error| format!("{}: {error}", busybox.display()))?;
        // The name of the program that loads its libraries stands at the front.
        if bytes.windows(8).take(4096).any(|bytes| bytes == b"ld-linux") {
            return Err(format!("{} is not static", busybox.display()));
        }
        Ok(Self { qemu: program("qemu-system-x86_64")?, busybox, kernel, modules })
    }
}

fn kernel() -> Result<PathBuf, String> {
    if let Some(path) = env::var_os("MEMORY_MODEL_KERNEL") {
        return Ok(path.into());
    }
    let mut found: Vec<_> =
        std::fs::read_dir("/boot").into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    found.retain(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("vmlinuz-"))
            && std::fs::File::open(path).is_ok()
    });
    found.sort();
    found.into_iter().next().ok_or("no /boot/vmlinuz-* that can be read, and MEMORY_MODEL_KERNEL is not set".into())
}

/// The path of a program. Tools for file systems lie where a user's `PATH` may not lead.
pub(crate) fn program(name: &str) -> Result<PathBuf, String> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
        .ok_or_else(|| format!("there is no {name}"))
}
