//! The sources of a crate as its compiler sees them: whole files, without what only tests have.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::{
    Attribute, Ident, Meta, Token, UseTree,
    punctuated::Punctuated,
    spanned::Spanned,
    visit::{self, Visit},
};

/// A path as it is written, name by name. One that begins outside of the crate begins with `::`.
pub(crate) type Written = Vec<String>;

/// One file.
#[derive(Debug, Default)]
pub(crate) struct Module {
    /// Its name below the sources' folder.
    pub(crate) file: String,
    /// Its lines, but for those of tests.
    pub(crate) lines: usize,
    /// The modules that it declares.
    pub(crate) children: BTreeSet<String>,
    /// What it imports or exports again, by its name here.
    pub(crate) bindings: BTreeMap<String, Written>,
    /// Every path that it names, of two names or more.
    pub(crate) named: Vec<Written>,
    /// How many functions it adds to a type by itself, not by a trait.
    pub(crate) methods: Vec<(Written, usize)>,
}

/// The modules by their paths: the root's is empty.
pub(crate) type Modules = BTreeMap<Written, Module>;

/// The crate in a folder.
pub(crate) fn of_folder(root: &Path) -> Modules {
    read(&|file| fs::read_to_string(root.join(file)).unwrap())
}

/// The crate whose files are told by their names: those of tests are not asked for.
pub(crate) fn read(text_of: &dyn Fn(&str) -> String) -> Modules {
    let mut modules = Modules::new();
    let mut open = vec![Written::new()];
    while let Some(path) = open.pop() {
        let file =
            if path.is_empty() { "lib.rs".to_owned() } else { format!("{}.rs", path.join("/")) };
        let module = Module::parse(&file, &text_of(&file));
        let child = |name: &String| [&*path, std::slice::from_ref(name)].concat();
        open.extend(module.children.iter().map(child));
        modules.insert(path, module);
    }
    modules
}

impl Module {
    fn parse(file: &str, text: &str) -> Self {
        let parsed = syn::parse_file(text).unwrap_or_else(|error| panic!("{file}: {error}"));
        let module = Self { file: file.to_owned(), lines: text.lines().count(), ..Self::default() };
        let mut reader = Reader { module };
        reader.visit_file(&parsed);
        reader.module
    }
}

/// Walks through a file.
struct Reader {
    module: Module,
}

impl Reader {
    /// Whether the product has this; what only tests have is taken off the lines.
    fn is_product(&mut self, attributes: &[Attribute], span: Span) -> bool {
        let is_product = attributes.iter().all(|attribute| {
            !attribute.path().is_ident("cfg")
                || attribute.parse_args::<Meta>().is_ok_and(|meta| holds(&meta))
        });
        if !is_product {
            self.module.lines -= span.end().line - span.start().line + 1;
        }
        is_product
    }

    fn name(&mut self, path: Written) {
        if path.len() > 1 {
            self.module.named.push(path);
        }
    }

    /// Takes an import apart.
    fn import(&mut self, before: &[String], tree: &UseTree) {
        let with = |name: &Ident| [before, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.import(&with(&path.ident), &path.tree),
            UseTree::Group(group) => {
                for item in &group.items {
                    self.import(before, item);
                }
            }
            UseTree::Glob(_) => self.name(before.to_vec()),
            UseTree::Name(name) if name.ident == "self" => {
                self.bind(before.last().cloned().unwrap_or_default(), before.to_vec());
            }
            UseTree::Name(name) => self.bind(name.ident.to_string(), with(&name.ident)),
            UseTree::Rename(name) => self.bind(name.rename.to_string(), with(&name.ident)),
        }
    }

    fn bind(&mut self, name: String, path: Written) {
        self.name(path.clone());
        self.module.bindings.insert(name, path);
    }

    /// Finds paths in what a macro is given, which has no syntax of its own.
    fn scan(&mut self, tokens: TokenStream) {
        let (mut path, mut colons) = (Written::new(), 0);
        for token in tokens {
            match token {
                TokenTree::Ident(name) => {
                    if colons != 2 {
                        self.name(std::mem::take(&mut path));
                    }
                    path.push(name.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                other => {
                    self.name(std::mem::take(&mut path));
                    colons = 0;
                    if let TokenTree::Group(group) = other {
                        self.scan(group.stream());
                    }
                }
            }
        }
        self.name(path);
    }
}

/// Whether a condition holds where nobody tests.
fn holds(meta: &Meta) -> bool {
    let all = || match meta {
        Meta::List(list) => list
            .parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated)
            .expect("conditions with commas"),
        _ => Punctuated::new(),
    };
    let name = meta.path().require_ident().expect("a condition is one word").to_string();
    match &*name {
        "test" | "feature" => false,
        "any" => all().iter().any(holds),
        "all" => all().iter().all(holds),
        "not" => !all().iter().all(holds),
        _ => true,
    }
}

/// Passes over whatever only tests have.
macro_rules! without_tests {
    ($($visit:ident: $node:ident,)*) => {
        $(fn $visit(&mut self, node: &'ast syn::$node) {
            if self.is_product(&node.attrs, node.span()) {
                visit::$visit(self, node);
            }
        })*
    };
}

impl<'ast> Visit<'ast> for Reader {
    without_tests! {
        visit_field: Field,
        visit_field_value: FieldValue,
        visit_impl_item_const: ImplItemConst,
        visit_impl_item_fn: ImplItemFn,
        visit_item_const: ItemConst,
        visit_item_enum: ItemEnum,
        visit_item_fn: ItemFn,
        visit_item_macro: ItemMacro,
        visit_item_static: ItemStatic,
        visit_item_struct: ItemStruct,
        visit_item_trait: ItemTrait,
        visit_item_type: ItemType,
        visit_local: Local,
        visit_variant: Variant,
    }

    fn visit_item_mod(&mut self, node: &'ast syn::ItemMod) {
        if self.is_product(&node.attrs, node.span()) {
            let file = &self.module.file;
            assert!(node.content.is_none(), "{file}: {} wants a file of its own", node.ident);
            self.module.children.insert(node.ident.to_string());
        }
    }

    fn visit_item_use(&mut self, node: &'ast syn::ItemUse) {
        if self.is_product(&node.attrs, node.span()) {
            let before = node.leading_colon.as_ref().map(|_| "::".to_owned());
            self.import(&Vec::from_iter(before), &node.tree);
        }
    }

    fn visit_item_impl(&mut self, node: &'ast syn::ItemImpl) {
        if !self.is_product(&node.attrs, node.span()) {
            return;
        }
        if let (None, syn::Type::Path(of)) = (&node.trait_, &*node.self_ty) {
            let is_method = |item: &&syn::ImplItem| matches!(item, syn::ImplItem::Fn(_));
            let methods = node.items.iter().filter(is_method).count();
            self.module.methods.push((written(&of.path), methods));
        }
        visit::visit_item_impl(self, node);
    }

    fn visit_path(&mut self, node: &'ast syn::Path) {
        self.name(written(node));
        visit::visit_path(self, node);
    }

    fn visit_macro(&mut self, node: &'ast syn::Macro) {
        self.name(written(&node.path));
        self.scan(node.tokens.clone());
    }

    fn visit_attribute(&mut self, node: &'ast Attribute) {
        if let Meta::List(list) = &node.meta {
            self.name(written(&list.path));
            self.scan(list.tokens.clone());
        }
    }
}

fn written(path: &syn::Path) -> Written {
    let before = path.leading_colon.as_ref().map(|_| "::".to_owned());
    before.into_iter().chain(path.segments.iter().map(|part| part.ident.to_string())).collect()
}
