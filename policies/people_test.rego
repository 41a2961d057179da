package countersign.people_test

import data.countersign.people

test_approvers_come_from_the_label if {
	people.approvers == ["leads", "oncall"] with input as {"resource": {"labels": {"approvers": " oncall,leads ,, oncall"}}}
}

test_a_person_is_told_from_a_group if {
	people.approvers == ["oncall", "subject:u-7"] with input as {"resource": {"labels": {"approvers": "oncall, subject:u-7"}}}
}

test_approvers_without_a_label if {
	every labels in [{}, {"approvers": ""}, {"approvers": " , "}] {
		people.approvers == ["approvers"] with input as {"resource": {"labels": labels}}
	}
}

test_is_in_groups_and_roles if {
	people.is_in({"a"}) with input as {"principal": {"groups": ["a"], "roles": []}}
	people.is_in({"a"}) with input as {"principal": {"groups": [], "roles": ["b", "a"]}}
	not people.is_in({"a"}) with input as {"principal": {"groups": ["b"], "roles": ["c"]}}
}
