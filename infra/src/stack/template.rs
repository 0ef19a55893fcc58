//! The template under construction: the fixed half, parsed, and the ways in which the
//! project's half is put into it.

use super::{StackError, secret_arn};
use crate::yaml::Node;
use serde_json::{Value, json};

/// The fixed half of every stack.
const TEMPLATE: &str = include_str!("../../../template.yaml");

/// The template under construction.
pub(super) struct Template(Node);

impl Template {
    /// The fixed half.
    pub(super) fn parse() -> Result<Self, StackError> {
        serde_saphyr::from_str(TEMPLATE)
            .map(Self)
            .map_err(|error| StackError::Template(error.to_string()))
    }

    /// The entries of a map.
    pub(super) fn entries(
        &mut self,
        path: &[&str],
    ) -> Result<&mut Vec<(String, Node)>, StackError> {
        self.0
            .at(path)
            .and_then(Node::entries)
            .ok_or_else(|| StackError::Template(format!("no map {}", path.join("."))))
    }

    /// The template as YAML.
    pub(super) fn write(&self) -> String {
        self.0.write()
    }

    /// Adds a statement to the policy of a queue.
    pub(super) fn allow_queue(&mut self, queue: &str, statement: Value) -> Result<(), StackError> {
        let id = format!("{queue}Policy");
        self.0
            .at(&[
                "Resources",
                &id,
                "Properties",
                "PolicyDocument",
                "Statement",
            ])
            .and_then(Node::items)
            .ok_or_else(|| StackError::Template(format!("{id} has no statements")))?
            .push(Node::from(statement));
        Ok(())
    }

    /// Fills in a parameter. Not by a default: the AWS command line would go on
    /// with a stack's old value when the default changes.
    pub(super) fn bind(&mut self, parameter: &str, value: &str) -> Result<(), StackError> {
        let parameters = self.entries(&["Parameters"])?;
        let count = parameters.len();
        parameters.retain(|(name, _)| name != parameter);
        if parameters.len() == count {
            return Err(StackError::Template(format!("no parameter {parameter}")));
        }
        self.0.bind(parameter, value);
        Ok(())
    }

    /// Adds an entry to a section; a name is taken once.
    pub(super) fn add(
        &mut self,
        section: &str,
        id: String,
        value: Value,
    ) -> Result<(), StackError> {
        let entries = self.entries(&[section])?;
        if entries.iter().any(|(name, _)| *name == id) {
            return Err(StackError::Template(format!("{section} has {id} twice")));
        }
        entries.push((id, Node::from(value)));
        Ok(())
    }

    /// Adds a resource.
    pub(super) fn resource(
        &mut self,
        id: String,
        kind: &str,
        properties: Value,
    ) -> Result<(), StackError> {
        self.add(
            "Resources",
            id,
            json!({"Type": kind, "Properties": properties}),
        )
    }

    /// A resource with state, whose fate is then said.
    pub(super) fn kept_resource(
        &mut self,
        id: &str,
        kind: &str,
        properties: Value,
    ) -> Result<(), StackError> {
        let resource = json!({
            "Type": kind,
            "DeletionPolicy": "Delete",
            "UpdateReplacePolicy": "Delete",
            "Properties": properties,
        });
        self.add("Resources", id.to_owned(), resource)
    }

    /// A secret that begins as an empty map, and an output with its ARN.
    pub(super) fn secret(&mut self, id: &str, about: &str) -> Result<(), StackError> {
        let properties = json!({"Description": about, "SecretString": "{}"});
        self.kept_resource(id, "AWS::SecretsManager::Secret", properties)?;
        let output =
            json!({"Description": format!("{about}; a JSON map"), "Value": secret_arn(id)});
        self.add("Outputs", id.to_owned(), output)
    }

    /// Sets a variable that the function has already.
    pub(super) fn variable(
        &mut self,
        function: &str,
        name: &str,
        value: Value,
    ) -> Result<(), StackError> {
        let id = format!("{function}Function");
        let path = [
            "Resources",
            &id,
            "Properties",
            "Environment",
            "Variables",
            name,
        ];
        let slot = self
            .0
            .at(&path)
            .ok_or_else(|| StackError::Template(format!("{id} has no variable {name}")))?;
        *slot = Node::from(value);
        Ok(())
    }

    /// Adds a statement to the function's own policy.
    pub(super) fn allow(&mut self, function: &str, statement: Value) -> Result<(), StackError> {
        let id = format!("{function}Role");
        self.0
            .at(&["Resources", &id, "Properties", "Policies"])
            .and_then(Node::items)
            .and_then(|policies| policies.first_mut())
            .and_then(|policy| policy.at(&["PolicyDocument", "Statement"]))
            .and_then(Node::items)
            .ok_or_else(|| StackError::Template(format!("{id} has no policy")))?
            .push(Node::from(statement));
        Ok(())
    }
}
