//! A configuration file, through the one door there is: a configuration, or errors that say what and where.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis::config::Config;
use std::path::PathBuf;
use std::sync::LazyLock;

/// In a folder of its own, in which the files that a configuration may name do not exist.
static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(format!("portcullis-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder for the file");
    folder.join("portcullis.yaml")
});

fuzz_target!(|input: &[u8]| {
    std::fs::write(&*FILE, input).expect("the file can be written");
    if let Err(errors) = Config::load(&FILE) {
        assert!(!errors.errors.is_empty());
        for error in &errors.errors {
            assert!(!error.what.is_empty() && !error.mend.is_empty());
            assert!(error.what != "could not be understood", "left out without an error: {errors}");
        }
    }
});
