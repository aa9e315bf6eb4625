"""Relevance propagation: rules that replace gradients, installed for as long as a block lasts."""

from interp.models.relevance.context import relevance_rules as relevance_rules
from interp.models.relevance.coverage import RuleTable as RuleTable
from interp.models.relevance.coverage import rule_table as rule_table
from interp.models.relevance.rules import RULES as RULES
from interp.models.relevance.rules import RelevanceRules as RelevanceRules
from interp.models.relevance.rules import UserRule as UserRule
