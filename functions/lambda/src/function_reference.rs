//! References to Lambda functions: names and ARNs, with or without a qualifier.

use stepward::model::permissions::ArnScope;

/// A function, parsed from a name or an ARN.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct FunctionReference<'a> {
    partition: Option<&'a str>,
    region: Option<&'a str>,
    account_id: Option<&'a str>,
    pub(crate) name: &'a str,
    /// The version or alias.
    pub(crate) qualifier: Option<&'a str>,
}

impl<'a> FunctionReference<'a> {
    /// <https://docs.aws.amazon.com/lambda/latest/api/API_Invoke.html> (`FunctionName`)
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let parts: Vec<_> = text.split(':').collect();
        let (scope, name_parts) = match parts[..] {
            [
                "arn",
                partition,
                "lambda",
                region,
                account_id,
                "function",
                ref name_parts @ ..,
            ] => {
                let scope = Self {
                    partition: Some(partition),
                    region: Some(region),
                    account_id: Some(account_id),
                    ..Self::default()
                };
                (scope, name_parts)
            }
            [account_id, "function", ref name_parts @ ..] if !name_parts.is_empty() => {
                let scope = Self {
                    account_id: Some(account_id),
                    ..Self::default()
                };
                (scope, name_parts)
            }
            _ => (Self::default(), &parts[..]),
        };
        match *name_parts {
            [name] => Some(Self { name, ..scope }),
            [name, qualifier] => Some(Self {
                name,
                qualifier: Some(qualifier),
                ..scope
            }),
            _ => None,
        }
    }

    /// Whether the function is in the step's account and Region. A part that the reference does not
    /// have matches every scope.
    pub(crate) fn is_in_scope(&self, scope: &ArnScope) -> bool {
        let matches = |part: Option<&str>, expected: &str| part.is_none_or(|part| part == expected);
        matches(self.partition, &scope.partition)
            && matches(self.region, &scope.region)
            && matches(self.account_id, &scope.account_id)
    }

    /// The same function, with this qualifier if it has none.
    pub(crate) fn or_qualifier(self, qualifier: Option<&'a str>) -> Self {
        Self {
            qualifier: self.qualifier.or(qualifier),
            ..self
        }
    }

    /// The name with the qualifier.
    pub(crate) fn qualified_name(&self) -> String {
        match self.qualifier {
            Some(qualifier) => format!("{}:{qualifier}", self.name),
            None => self.name.to_owned(),
        }
    }
}
