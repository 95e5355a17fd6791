//! Plans for small meshes, and the laws that every plan keeps.

use super::*;
