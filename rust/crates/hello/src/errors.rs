//! Error enums whose every way of being wrong has one word.

/// Makes the enum, its list, its words and its texts from one table. `from` adds the error of a part.
macro_rules! errors {
    (
        $(#[$meta:meta])* $error:ident
        $(, from $(#[$from_doc:meta])* $from:ident($inner:ty) $prefix:literal)*
        ;
        $($(#[$doc:meta])* $variant:ident $word:literal $text:literal,)+
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $error {
            $($(#[$doc])* #[doc = concat!("`", $word, "`: ", $text, ".")] $variant,)+
            $($(#[$from_doc])* $from($inner),)*
        }

        impl $error {
            /// Every error that stands alone, for tables and tests.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The error as one word for logs and labels, at most 40 bytes.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                    $(Self::$from(error) => error.word(),)*
                }
            }
        }

        impl std::fmt::Display for $error {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self {
                    $(Self::$variant => f.write_str($text),)+
                    $(Self::$from(error) => write!(f, concat!($prefix, ": {}"), error),)*
                }
            }
        }

        impl std::error::Error for $error {}
    };
}

pub(crate) use errors;
