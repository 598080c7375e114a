// SPDX-License-Identifier: Apache-2.0
//! What a certificate says of its TPM.

use crate::certificate::Certificate;
use crate::der::{Reader, SEQUENCE};
use crate::error::{EkCertificateError, Malformed};
use crate::name;

/// Longest accepted value of an attribute, in characters.
const MAX_VALUE: usize = 64;

/// UTF8String, PrintableString, IA5String.
const TEXT_TAGS: [u8; 3] = [0x0c, 0x13, 0x16];

/// The context tag of a directoryName among the GeneralNames (RFC 5280 "Subject Alternative Name").
const DIRECTORY_NAME: u8 = 0xa4;

/// tcg-at-tpmManufacturer, tcg-at-tpmModel, tcg-at-tpmVersion: 2.23.133.2.1 to .3.
const ATTRIBUTES: [(&[u8], &str); 3] = [
    (&[0x67, 0x81, 0x05, 0x02, 0x01], "TPM manufacturer (2.23.133.2.1)"),
    (&[0x67, 0x81, 0x05, 0x02, 0x02], "TPM model (2.23.133.2.2)"),
    (&[0x67, 0x81, 0x05, 0x02, 0x03], "TPM version (2.23.133.2.3)"),
];

/// Manufacturer, model and firmware version of a TPM, as its EK certificate has them.
///
/// Each is 0 to 64 printable ASCII characters, spaces among them; some virtual TPMs have an empty model. Source: TCG EK
/// Credential Profile for TPM Family 2.0, "Subject Alternative Name".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TpmModel {
    /// tcg-at-tpmManufacturer: mostly `id:` and the vendor id in hexadecimal, such as `id:49465800`.
    pub manufacturer: String,
    /// tcg-at-tpmModel: the vendor's part number, such as `SLB9670`.
    pub model: String,
    /// tcg-at-tpmVersion: mostly `id:` and the firmware version in hexadecimal, such as `id:0D0B`.
    pub version: String,
}

impl TpmModel {
    /// Reads the attributes out of the directoryName of the subjectAltName; where that has none of them, out of the
    /// subject, as old certificates have them.
    pub(crate) fn read(certificate: &Certificate<'_>) -> Result<Self, EkCertificateError> {
        let mut found = [const { None }; 3];
        if let Some(names) = certificate.extensions.alt_names {
            let mut names = Reader::new(names);
            while !names.is_empty() {
                let general = names.any("subjectAltName")?;
                if general.tag == DIRECTORY_NAME {
                    let mut inner = general.reader();
                    let name = inner.expect(SEQUENCE, "subjectAltName")?;
                    inner.finish("subjectAltName")?;
                    collect(name.content, &mut found)?;
                }
            }
        }
        if found.iter().all(Option::is_none) {
            collect(certificate.subject, &mut found)?;
        }
        let [manufacturer, model, version] = found;
        let [no_manufacturer, no_model, no_version] =
            ATTRIBUTES.map(|(_, attribute)| EkCertificateError::NoModel { attribute });
        Ok(Self {
            manufacturer: manufacturer.ok_or(no_manufacturer)?,
            model: model.ok_or(no_model)?,
            version: version.ok_or(no_version)?,
        })
    }
}

fn collect(name: &[u8], found: &mut [Option<String>; 3]) -> Result<(), EkCertificateError> {
    for attribute in name::attributes(name)? {
        for ((oid, description), slot) in ATTRIBUTES.into_iter().zip(found.iter_mut()) {
            if attribute.oid != oid {
                continue;
            }
            let bad = |problem| EkCertificateError::BadModel { attribute: description, problem };
            if !TEXT_TAGS.contains(&attribute.tag) {
                return Err(bad("it is neither a UTF8String nor a PrintableString nor an IA5String"));
            }
            if attribute.value.len() > MAX_VALUE {
                return Err(bad("it has more than 64 characters"));
            }
            if !attribute.value.iter().all(|byte| matches!(byte, b' '..=b'~')) {
                return Err(bad("it has a character that is not printable ASCII"));
            }
            if slot.is_some() {
                return Err(bad("it is there twice"));
            }
            let value = std::str::from_utf8(attribute.value).map_err(|_| Malformed { what: "subjectAltName" })?;
            *slot = Some(value.to_owned());
        }
    }
    Ok(())
}
