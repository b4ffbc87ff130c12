"""The Graph: contractions as typed operations, everything else as opaque host nodes."""
