//! Which file of src/ uses which, and how long each function is; read from the syntax tree.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use syn::visit::{self, Visit};

/// The path of a module, `["engine", "receive"]`; the crate's root has none.
pub(super) type Module = Vec<String>;

/// A function and its number of lines, from its signature to its last brace.
#[derive(Debug, PartialEq)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) lines: usize,
}

/// One file of src/ as the compiler reads it, without its tests.
#[derive(Default)]
struct File {
    /// Paths as they are written in the code.
    paths: Vec<Module>,
    /// Imported names, with the paths they stand for.
    imports: BTreeMap<String, Module>,
    functions: Vec<Function>,
    /// How many modules within the file are open where its syntax tree is visited.
    depth: usize,
}

/// The files of src/ and their imports.
pub(super) struct Graph {
    files: BTreeMap<Module, File>,
}

impl Graph {
    /// Parses sources that are given with their paths below src/.
    pub(super) fn of<'a>(sources: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        let mut files = BTreeMap::new();
        for (path, text) in sources {
            let mut file = File::default();
            let tree = syn::parse_file(text).unwrap_or_else(|e| panic!("{path}: {e}"));
            file.visit_file(&tree);
            files.insert(module_of(path), file);
        }
        Self { files }
    }

    /// For each file the other files that it names.
    pub(super) fn arrows(&self) -> BTreeMap<&Module, BTreeSet<&Module>> {
        let targets = |module: &Module, file: &File| {
            let written = file.paths.iter().chain(file.imports.values());
            let absolute = written.filter_map(|path| self.absolute(module, path));
            let files = absolute.filter_map(|path| self.file_of(&path, 0));
            files.map(|(module, _)| module).filter(|target| !target.is_empty()).collect::<BTreeSet<_>>()
        };
        let mut arrows: BTreeMap<_, _> =
            self.files.iter().map(|(module, file)| (module, targets(module, file))).collect();
        for (module, targets) in &mut arrows {
            targets.remove(module);
        }
        arrows
    }

    /// The groups of files that use each other, directly or through others, as their paths.
    pub(super) fn circles(&self) -> Vec<Vec<String>> {
        let arrows = self.arrows();
        let reach = |start: &Module| {
            let mut reached = BTreeSet::new();
            let mut waiting: Vec<&Module> = arrows[start].iter().copied().collect();
            while let Some(module) = waiting.pop() {
                if reached.insert(module) {
                    waiting.extend(&arrows[module]);
                }
            }
            reached
        };
        let reached: BTreeMap<&Module, BTreeSet<&Module>> =
            arrows.keys().map(|module| (*module, reach(module))).collect();
        let mut circles: BTreeSet<Vec<String>> = BTreeSet::new();
        for (module, others) in &reached {
            let circle = others.iter().filter(|other| reached[*other].contains(module));
            let names: Vec<String> = circle.map(|module| module.join("/")).collect();
            if !names.is_empty() {
                circles.insert(names);
            }
        }
        circles.into_iter().collect()
    }

    /// Functions of more than so many lines.
    pub(super) fn functions_over(&self, lines: usize) -> Vec<String> {
        let all = self
            .files
            .iter()
            .flat_map(|(module, file)| file.functions.iter().map(move |function| (module, function)));
        all.filter(|(_, function)| function.lines > lines)
            .map(|(module, function)| {
                format!("{}::{} has {} lines", module.join("::"), function.name, function.lines)
            })
            .collect()
    }

    /// The path from the crate's root, unless it leads out of the crate.
    fn absolute(&self, module: &Module, path: &[String]) -> Option<Module> {
        let (first, rest) = path.split_first()?;
        match first.as_str() {
            "crate" => Some(rest.to_vec()),
            "self" => Some([module, rest].concat()),
            "super" => {
                let ups = path.iter().take_while(|part| *part == "super").count();
                Some([module.get(..module.len().checked_sub(ups)?)?, &path[ups..]].concat())
            }
            _ => {
                let child = [module.as_slice(), std::slice::from_ref(first)].concat();
                self.files.contains_key(&child).then(|| [module, path].concat())
            }
        }
    }

    /// The file that defines the last name of an absolute path. A name that a file re-exports
    /// belongs to the file that defines it.
    fn file_of(&self, path: &[String], depth: usize) -> Option<(&Module, usize)> {
        let length = (0..=path.len()).rev().find(|&length| self.files.contains_key(&path[..length]))?;
        let (module, file) = self.files.get_key_value(&path[..length])?;
        let import = path.get(length).and_then(|name| file.imports.get(name));
        let handed_on = import.and_then(|import| self.absolute(module, import));
        match handed_on {
            Some(target) if depth < 8 && target != path => {
                let rest = path.get(length + 1..).unwrap_or_default();
                self.file_of(&[&target, rest].concat(), depth + 1)
            }
            _ => Some((module, length)),
        }
    }
}

/// `engine/receive/mod.rs` and `engine/receive.rs` are both the module `engine::receive`.
fn module_of(path: &str) -> Module {
    let path = Path::new(path).with_extension("");
    let mut module: Module = path.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    if module.last().is_some_and(|last| last == "mod" || last == "lib") {
        module.pop();
    }
    module
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let is_cfg = attribute.path().is_ident("cfg");
        is_cfg && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
    })
}

impl File {
    /// Notes a path that the code names, as it reads outside of the modules within the file.
    fn name(&mut self, mut path: Module) {
        let ups = path.iter().take_while(|part| *part == "super").count().min(self.depth);
        path.drain(..ups);
        if ups > 0 && path.first().is_none_or(|part| part != "super") {
            path.insert(0, "self".into());
        }
        self.paths.push(path);
    }

    fn import(&mut self, tree: &syn::UseTree, prefix: &Module) {
        let with = |ident: &syn::Ident| [prefix.clone(), vec![ident.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.import(&path.tree, &with(&path.ident)),
            syn::UseTree::Name(name) if name.ident == "self" => {
                self.imports.insert(prefix.last().cloned().unwrap_or_default(), prefix.clone());
            }
            syn::UseTree::Name(name) => {
                self.imports.insert(name.ident.to_string(), with(&name.ident));
            }
            syn::UseTree::Rename(rename) => {
                self.imports.insert(rename.rename.to_string(), with(&rename.ident));
            }
            syn::UseTree::Glob(_) => self.name(prefix.clone()),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.import(tree, prefix)),
        }
    }

    fn function(&mut self, signature: &syn::Signature, block: &syn::Block) {
        let end = block.brace_token.span.close().end();
        let lines = end.line - signature.fn_token.span.start().line + 1;
        self.functions.push(Function { name: signature.ident.to_string(), lines });
    }
}

impl<'ast> Visit<'ast> for File {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_test(&item.attrs) {
            self.depth += 1;
            visit::visit_item_mod(self, item);
            self.depth -= 1;
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        if !is_test(&item.attrs) {
            self.import(&item.tree, &Vec::new());
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !is_test(&item.attrs) {
            self.function(&item.sig, &item.block);
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_test(&item.attrs) {
            self.function(&item.sig, &item.block);
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 && path.leading_colon.is_none() {
            self.name(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }
}
