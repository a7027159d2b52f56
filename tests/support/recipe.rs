//! A recipe of `examples/recipes`: its own files, with nothing but addresses and paths put in their places.

use super::config::Config;
use super::document::{self, Step, read, root};
use super::folder::Folder;
use super::gateway::Gateway;
use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;

/// The addresses that recipes write, for which the gateway is given free ports.
pub(crate) const LISTENER: &str = "127.0.0.1:8080";
pub(crate) const ADMIN: &str = "127.0.0.1:9090";
const CONFIG: &str = "portcullis.yaml";

/// The recipe.
pub(crate) struct Recipe {
    folder: PathBuf,
    moved: Vec<(String, String)>,
    // Which of them were found anywhere: what is not there is no substitution.
    used: RefCell<Vec<bool>>,
}

impl Recipe {
    pub(crate) fn named(name: &str) -> Self {
        let folder = root().join("examples/recipes").join(name);
        Self { folder, moved: Vec::new(), used: RefCell::default() }
    }

    /// With another address or path in all of its files.
    pub(crate) fn moved(mut self, from: &str, to: &str) -> Self {
        self.moved.push((from.to_owned(), to.to_owned()));
        self.used.borrow_mut().push(false);
        self
    }

    /// One of its files as it is.
    #[track_caller]
    pub(crate) fn original(&self, file: &str) -> String {
        read(&self.folder.join(file).display().to_string())
    }

    /// The path of one of its files.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }

    /// One of its files, with everything in its place.
    #[track_caller]
    pub(crate) fn text(&self, file: &str) -> String {
        self.put_in_place(self.original(file))
    }

    /// A text of the recipe, with everything in its place.
    pub(crate) fn put_in_place(&self, mut text: String) -> String {
        for (n, (from, to)) in self.moved.iter().enumerate() {
            if text.contains(from) {
                self.used.borrow_mut()[n] = true;
                text = text.replace(from, to);
            }
        }
        text
    }

    /// Its configuration with the files beside it.
    #[track_caller]
    pub(crate) fn config(&self) -> Config {
        let mut config = Config::written(self.text(CONFIG));
        for entry in fs::read_dir(&self.folder).expect("the recipe's folder") {
            let name = entry.expect("an entry").file_name().into_string().expect("a name");
            if name != CONFIG {
                config = config.file(&name, self.text(&name));
            }
        }
        for ((from, _), used) in self.moved.iter().zip(self.used.borrow().iter()) {
            assert!(used, "{from} is nowhere in the recipe");
        }
        config
    }

    /// A copy of all its files, with everything in its place.
    #[track_caller]
    pub(crate) fn copy(&self) -> Folder {
        let folder = Folder::new();
        for entry in fs::read_dir(&self.folder).expect("the recipe's folder") {
            let name = entry.expect("an entry").file_name().into_string().expect("a name");
            folder.write(&name, self.text(&name));
        }
        folder
    }

    /// The lines of its README, for this gateway.
    #[track_caller]
    pub(crate) fn steps(&self, gateway: &Gateway) -> Vec<Step> {
        let text = self.text("README.md");
        document::steps(&text.replace(LISTENER, &gateway.address()).replace(ADMIN, &gateway.admin()))
    }
}
