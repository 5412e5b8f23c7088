//! Finds the imports between the files of a package. It parses the module tree of every target with
//! `syn`, and resolves the paths to the files that define their items.
//!
//! The unit is a file. An inline module belongs to its file. A re-export is followed to the
//! definition of the item, so a file that only declares modules and re-exports their items depends
//! on nothing. Code for tests does not count.
//!
//! The analysis cannot find the files behind method calls, trait implementations and macro
//! expansions, because only the compiler can resolve them.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{TokenStream, TokenTree};
use syn::ext::IdentExt;
use syn::visit::{self, Visit};
use syn::{Attribute, Expr, Item, ItemMod, Lit, Meta, Token, UseTree, Visibility};

/// A package as Cargo describes it.
pub(crate) struct Package {
    /// The name of its library: the package's name with underscores.
    pub(crate) library_name: String,
    /// The root file of its library.
    pub(crate) library: Option<String>,
    /// The root files of its other targets.
    pub(crate) others: Vec<String>,
    /// The text of every source file, by its path.
    pub(crate) sources: BTreeMap<String, String>,
}

/// A path in one file that leads to an item in another.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(crate) struct Import {
    pub(crate) from: String,
    pub(crate) line: usize,
    /// The path in the source, for example `crate::store::Store`.
    pub(crate) path: String,
    pub(crate) to: String,
}

/// Returns the imports between the files of a package. For each pair of files, only the first
/// import is returned.
pub(crate) fn imports(package: &Package) -> Result<Vec<Import>, String> {
    let parse = |(path, text): (&String, &String)| match syn::parse_file(text) {
        Ok(file) => Ok((path.clone(), file)),
        Err(error) => Err(format!("{path}:{}: {error}", error.span().start().line)),
    };
    let files: Files = package
        .sources
        .iter()
        .map(parse)
        .collect::<Result<_, _>>()?;
    let mut modules = Modules {
        files: &files,
        library_name: &package.library_name,
        library: None,
        all: Vec::new(),
    };
    if let Some(root) = &package.library {
        modules.library = Some(modules.add_root(root)?);
    }
    for root in &package.others {
        modules.add_root(root)?;
    }
    let reached: BTreeSet<_> = modules.all.iter().map(|module| module.file).collect();
    if let Some(orphan) = files.keys().find(|path| !reached.contains(path.as_str())) {
        return Err(format!(
            "{orphan}: no `mod` declaration leads to this file; declare the module or delete the \
             file"
        ));
    }
    let mut found = BTreeMap::new();
    for (id, module) in modules
        .all
        .iter()
        .enumerate()
        .filter(|(_, module)| !module.is_test)
    {
        let mut code = Code {
            modules: &modules,
            module: id,
            found: Vec::new(),
        };
        for item in module.items {
            code.visit_item(item);
        }
        for import in code.found {
            found
                .entry((import.from.clone(), import.to.clone()))
                .or_insert(import);
        }
    }
    Ok(found.into_values().collect())
}

type Files = BTreeMap<String, syn::File>;
type ModuleId = usize;
type Path = Vec<String>;

/// The module trees of all targets of a package.
struct Modules<'a> {
    files: &'a Files,
    library_name: &'a str,
    library: Option<ModuleId>,
    all: Vec<Module<'a>>,
}

struct Module<'a> {
    file: &'a str,
    /// The root and the parent of a root are the root itself.
    root: ModuleId,
    parent: ModuleId,
    is_test: bool,
    items: &'a [Item],
    names: BTreeMap<String, Vec<Definition>>,
    globs: Vec<Path>,
}

/// The meaning of a name in a module. A module and a function can have the same name.
enum Definition {
    Module(ModuleId),
    /// Anything else that is defined here.
    Item,
    /// An import from this path.
    Import(Path),
}

/// The target of a path: a module, or an item and its file.
#[derive(Clone, Copy, Eq, Ord, PartialEq, PartialOrd)]
enum Target<'a> {
    Module(ModuleId),
    Item(&'a str),
}

type Targets<'a> = BTreeSet<Target<'a>>;
/// The names that are being resolved. A name that refers to itself has no target.
type Pending = BTreeSet<(ModuleId, String)>;

impl<'a> Modules<'a> {
    fn add_root(&mut self, path: &str) -> Result<ModuleId, String> {
        let (path, file) = self
            .files
            .get_key_value(path)
            .ok_or_else(|| format!("{path}: cannot be read"))?;
        let id = self.all.len();
        let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        self.add(path, &file.items, (id, id), false, directory)
    }

    /// Adds a module and its child modules, whose files are in `directory`.
    fn add(
        &mut self,
        file: &'a str,
        items: &'a [Item],
        (root, parent): (ModuleId, ModuleId),
        is_test: bool,
        directory: &str,
    ) -> Result<ModuleId, String> {
        let id = self.all.len();
        let mut names = Names::default();
        for item in items {
            names.visit_item(item);
        }
        let Names { names, globs } = names;
        self.all.push(Module {
            file,
            root,
            parent,
            is_test,
            items,
            names,
            globs,
        });
        for item in items {
            let Item::Mod(child) = item else { continue };
            let is_test = is_test || is_for_tests(&child.attrs);
            let name = child.ident.unraw().to_string();
            let below = join(directory, &name);
            let added = if let Some((_, items)) = &child.content {
                self.add(file, items, (root, id), is_test, &below)?
            } else {
                let (path, parsed) = self.child_file(file, child, directory, &below)?;
                // The child modules of a `mod.rs` or of a file with `#[path]` are in the same
                // directory.
                let own = path_attribute(child).is_some() || path.ends_with("/mod.rs");
                let directory = if own {
                    path.rsplit_once('/').map_or("", |(directory, _)| directory)
                } else {
                    &below
                };
                self.add(path, &parsed.items, (root, id), is_test, directory)?
            };
            if !is_test {
                self.all[id]
                    .names
                    .entry(name)
                    .or_default()
                    .push(Definition::Module(added));
            }
        }
        Ok(id)
    }

    fn child_file(
        &self,
        file: &str,
        child: &ItemMod,
        directory: &str,
        below: &str,
    ) -> Result<(&'a str, &'a syn::File), String> {
        let candidates = match path_attribute(child) {
            // Relative to the folder of the declaring file, not to that of its children.
            Some(path) => vec![join(
                file.rsplit_once('/').map_or("", |(directory, _)| directory),
                &path,
            )],
            None => vec![format!("{below}.rs"), format!("{below}/mod.rs")],
        };
        let found = candidates
            .iter()
            .find_map(|path| self.files.get_key_value(path));
        let (path, parsed) = found.ok_or_else(|| {
            format!(
                "{file}: `mod {};` has no file in `{directory}`",
                child.ident
            )
        })?;
        Ok((path, parsed))
    }

    /// Returns the targets of a path in a module. The set is empty for paths to other packages.
    fn resolve(&self, from: ModuleId, path: &[String]) -> Targets<'a> {
        self.resolve_unless_pending(from, path, &mut Pending::new())
    }

    fn resolve_unless_pending(
        &self,
        from: ModuleId,
        path: &[String],
        pending: &mut Pending,
    ) -> Targets<'a> {
        let Some((first, mut rest)) = path.split_first() else {
            return Targets::new();
        };
        let library = || self.library.filter(|_| first == self.library_name);
        let mut targets = match first.as_str() {
            "crate" => Targets::from([Target::Module(self.all[from].root)]),
            "self" => Targets::from([Target::Module(from)]),
            "super" => {
                let mut module = self.all[from].parent;
                while let Some(("super", next)) = rest
                    .split_first()
                    .map(|(first, rest)| (first.as_str(), rest))
                {
                    (module, rest) = (self.all[module].parent, next);
                }
                Targets::from([Target::Module(module)])
            }
            name => match self.lookup(from, name, pending) {
                Some(targets) => targets,
                None => library().map(Target::Module).into_iter().collect(),
            },
        };
        for name in rest {
            targets = self.resolve_segment(&targets, name, pending);
        }
        targets
    }

    /// Resolves the next segment of a path.
    fn resolve_segment(
        &self,
        targets: &Targets<'a>,
        name: &str,
        pending: &mut Pending,
    ) -> Targets<'a> {
        let modules = targets.iter().filter_map(|target| match target {
            Target::Module(id) => Some(*id),
            Target::Item(_) => None,
        });
        let mut found = Targets::new();
        for module in modules {
            let here = || Targets::from([Target::Item(self.all[module].file)]);
            // An unknown name is defined by a macro of the module.
            found.extend(self.lookup(module, name, pending).unwrap_or_else(here));
        }
        // A variant or an associated item is in the file of its type.
        let has_module = targets
            .iter()
            .any(|target| matches!(target, Target::Module(_)));
        if has_module { found } else { targets.clone() }
    }

    /// Returns the targets of a name in a module, or `None` if the module does not define it.
    fn lookup(&self, module: ModuleId, name: &str, pending: &mut Pending) -> Option<Targets<'a>> {
        let is_first = pending.insert((module, name.to_owned()));
        let found = match self.all[module].names.get(name) {
            Some(definitions) => {
                let resolve = |definition: &Definition| match definition {
                    Definition::Module(id) => Targets::from([Target::Module(*id)]),
                    Definition::Item => Targets::from([Target::Item(self.all[module].file)]),
                    Definition::Import(path) if is_first => {
                        self.resolve_unless_pending(module, path, pending)
                    }
                    // `use check::check` names itself by its first segment, which is the module.
                    Definition::Import(_) => Targets::new(),
                };
                Some(definitions.iter().flat_map(resolve).collect())
            }
            None if !is_first => None,
            None => self.all[module].globs.iter().find_map(|glob| {
                let globbed = self.resolve_unless_pending(module, glob, pending);
                globbed.into_iter().find_map(|target| match target {
                    Target::Module(id) => self.lookup(id, name, pending),
                    Target::Item(_) => None,
                })
            }),
        };
        if is_first {
            pending.remove(&(module, name.to_owned()));
        }
        found
    }
}

/// Collects the names of one module: its items and what it imports, in its functions too.
#[derive(Default)]
struct Names {
    names: BTreeMap<String, Vec<Definition>>,
    globs: Vec<Path>,
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item(&mut self, item: &'ast Item) {
        if is_for_tests(attributes(item)) {
            return;
        }
        let name = match item {
            Item::Const(item) => &item.ident,
            Item::Enum(item) => &item.ident,
            Item::Fn(item) => &item.sig.ident,
            Item::Static(item) => &item.ident,
            Item::Struct(item) => &item.ident,
            Item::Trait(item) => &item.ident,
            Item::Type(item) => &item.ident,
            Item::Union(item) => &item.ident,
            // The modules themselves are added with their files.
            Item::Mod(_) => return,
            _ => return visit::visit_item(self, item),
        };
        self.names
            .entry(name.unraw().to_string())
            .or_default()
            .push(Definition::Item);
        visit::visit_item(self, item);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        for leaf in leaves(&item.tree) {
            match leaf.name {
                Some(name) => self
                    .names
                    .entry(name)
                    .or_default()
                    .push(Definition::Import(leaf.path)),
                None => self.globs.push(leaf.path),
            }
        }
    }
}

/// Collects the imports of one module's code.
struct Code<'m, 'a> {
    modules: &'m Modules<'a>,
    module: ModuleId,
    found: Vec<Import>,
}

impl Code<'_, '_> {
    fn add(&mut self, line: usize, path: &[String], targets: &Targets) {
        let from = self.modules.all[self.module].file;
        for target in targets {
            // Naming a module is not a use of its items.
            let Target::Item(to) = target else { continue };
            if *to != from {
                let (from, to, path) = (from.to_owned(), (*to).to_owned(), path.join("::"));
                self.found.push(Import {
                    from,
                    line,
                    path,
                    to,
                });
            }
        }
    }

    fn add_path(&mut self, line: usize, path: &[String]) {
        let targets = self.modules.resolve(self.module, path);
        self.add(line, path, &targets);
    }

    /// A glob can import any item of the module, for example a trait whose methods are called
    /// without its name. So it depends on the module's file.
    fn add_glob(&mut self, line: usize, path: &[String]) {
        let as_file = |target| match target {
            Target::Module(id) if self.modules.all[id].has_items() => {
                Some(Target::Item(self.modules.all[id].file))
            }
            Target::Module(_) => None,
            item @ Target::Item(_) => Some(item),
        };
        let targets = self
            .modules
            .resolve(self.module, path)
            .into_iter()
            .filter_map(as_file)
            .collect();
        self.add(line, &[path, &["*".to_owned()]].concat(), &targets);
    }

    /// Adds the paths in the arguments of a macro or an attribute, also in string literals such as
    /// `#[serde(default = "…")]`.
    fn add_tokens(&mut self, tokens: TokenStream) {
        let mut tokens = tokens.into_iter().peekable();
        while let Some(token) = tokens.next() {
            match token {
                TokenTree::Group(group) => self.add_tokens(group.stream()),
                TokenTree::Literal(literal) => {
                    let line = literal.span().start().line;
                    let Lit::Str(text) = Lit::new(literal) else {
                        continue;
                    };
                    if let Ok(path) = text.parse::<syn::Path>() {
                        self.add_path(line, &segments(&path));
                    }
                }
                TokenTree::Ident(ident) => {
                    let line = ident.span().start().line;
                    let mut path = vec![ident.unraw().to_string()];
                    let is_colon = |token: &TokenTree| match token {
                        TokenTree::Punct(punct) => punct.as_char() == ':',
                        _ => false,
                    };
                    while tokens.next_if(is_colon).is_some() && tokens.next_if(is_colon).is_some() {
                        let Some(TokenTree::Ident(next)) = tokens.peek() else {
                            break;
                        };
                        path.push(next.unraw().to_string());
                        tokens.next();
                    }
                    self.add_path(line, &path);
                }
                TokenTree::Punct(_) => {}
            }
        }
    }
}

impl<'ast> Visit<'ast> for Code<'_, '_> {
    fn visit_item(&mut self, item: &'ast Item) {
        // Every module is visited on its own.
        if !is_for_tests(attributes(item)) && !matches!(item, Item::Mod(_)) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item(&mut self, item: &'ast syn::ImplItem) {
        let attributes = match item {
            syn::ImplItem::Const(item) => &item.attrs,
            syn::ImplItem::Fn(item) => &item.attrs,
            syn::ImplItem::Type(item) => &item.attrs,
            syn::ImplItem::Macro(item) => &item.attrs,
            _ => return visit::visit_impl_item(self, item),
        };
        if !is_for_tests(attributes) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        if !is_for_tests(&field.attrs) {
            visit::visit_field(self, field);
        }
    }

    fn visit_variant(&mut self, variant: &'ast syn::Variant) {
        if !is_for_tests(&variant.attrs) {
            visit::visit_variant(self, variant);
        }
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        if !is_for_tests(&arm.attrs) {
            visit::visit_arm(self, arm);
        }
    }

    fn visit_local(&mut self, local: &'ast syn::Local) {
        if !is_for_tests(&local.attrs) {
            visit::visit_local(self, local);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        // A re-export counts where it is used.
        if !matches!(item.vis, Visibility::Inherited) {
            return;
        }
        for leaf in leaves(&item.tree) {
            match leaf.name {
                Some(_) => self.add_path(leaf.line, &leaf.path),
                None => self.add_glob(leaf.line, &leaf.path),
            }
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if let Some(first) = path.segments.first() {
            self.add_path(first.ident.span().start().line, &segments(path));
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, found: &'ast syn::Macro) {
        visit::visit_macro(self, found);
        self.add_tokens(found.tokens.clone());
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if let Meta::List(list) = &attribute.meta {
            self.add_tokens(list.tokens.clone());
        }
    }
}

impl Module<'_> {
    fn has_items(&self) -> bool {
        self.names
            .values()
            .flatten()
            .any(|definition| matches!(definition, Definition::Item))
    }
}

/// One name of a `use` declaration, or one glob of it.
struct Leaf {
    /// The local name of the item, or `None` for a glob.
    name: Option<String>,
    path: Path,
    line: usize,
}

fn leaves(tree: &UseTree) -> Vec<Leaf> {
    fn collect(tree: &UseTree, prefix: &[String], into: &mut Vec<Leaf>) {
        let extended = |name: &syn::Ident| {
            let name = name.unraw().to_string();
            // `use a::{self}` imports `a`.
            let is_the_prefix = name == "self" && !prefix.is_empty();
            let more = if is_the_prefix { None } else { Some(name) };
            prefix.iter().cloned().chain(more).collect::<Vec<_>>()
        };
        let (name, path, line) = match tree {
            UseTree::Path(tree) => return collect(&tree.tree, &extended(&tree.ident), into),
            UseTree::Group(group) => {
                return group
                    .items
                    .iter()
                    .for_each(|tree| collect(tree, prefix, into));
            }
            UseTree::Name(tree) => {
                let path = extended(&tree.ident);
                (path.last().cloned(), path, tree.ident.span())
            }
            UseTree::Rename(tree) => (
                Some(tree.rename.to_string()),
                extended(&tree.ident),
                tree.ident.span(),
            ),
            UseTree::Glob(tree) => (None, prefix.to_vec(), tree.star_token.spans[0]),
        };
        into.push(Leaf {
            name,
            path,
            line: line.start().line,
        });
    }
    let mut found = Vec::new();
    collect(tree, &[], &mut found);
    found
}

fn segments(path: &syn::Path) -> Path {
    path.segments
        .iter()
        .map(|segment| segment.ident.unraw().to_string())
        .collect()
}

/// Returns whether an item is compiled only for tests.
fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let path = attribute.path();
        let is_test = path
            .segments
            .last()
            .is_some_and(|last| last.ident == "test");
        is_test
            || path.is_ident("cfg")
                && attribute
                    .parse_args::<Meta>()
                    .is_ok_and(|condition| needs_test(&condition))
    })
}

/// Returns whether a `cfg` condition requires `test`.
fn needs_test(condition: &Meta) -> bool {
    let Meta::List(list) = condition else {
        return condition.path().is_ident("test");
    };
    let parse = syn::punctuated::Punctuated::<Meta, Token![,]>::parse_terminated;
    let Ok(parts) = list.parse_args_with(parse) else {
        return false;
    };
    if list.path.is_ident("all") {
        return parts.iter().any(needs_test);
    }
    list.path.is_ident("any") && parts.iter().all(needs_test)
}

fn path_attribute(module: &ItemMod) -> Option<String> {
    let attribute = module
        .attrs
        .iter()
        .find(|attribute| attribute.path().is_ident("path"))?;
    match &attribute.meta.require_name_value().ok()?.value {
        Expr::Lit(literal) => match &literal.lit {
            Lit::Str(path) => Some(path.value()),
            _ => None,
        },
        _ => None,
    }
}

/// Joins a directory and a relative path, and resolves `..`.
fn join(directory: &str, path: &str) -> String {
    let mut parts: Vec<_> = directory
        .split('/')
        .filter(|part| !part.is_empty())
        .collect();
    for part in path.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}
